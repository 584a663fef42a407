"""What the pages of `glassworks demo` and `glassworks watch` share: address, guard, server, style. Needs the extra `demo`."""
