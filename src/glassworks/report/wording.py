"""Formats numbers for the report."""


def size(count: int) -> str:
    """Human-readable size in bytes: 812 B, 4.1 kB, 31.1 MB."""
    if count < 1000:
        return f"{count} B"
    value, units = float(count), iter(("kB", "MB", "GB", "TB"))
    while True:
        value, unit = value / 1000, next(units)
        if value < 999.95 or unit == "TB":
            return f"{value:,.1f} {unit}"


def magnitude(count: int) -> str:
    """A count in three significant digits: 812, 1.28 M, 31.1 k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return str(count)


def duration(seconds: float) -> str:
    """Human-readable duration: 0.4 s, 41 s, 3 min 05 s, 1 h 02 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole // 60 % 60:02d} min"
