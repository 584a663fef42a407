"""Tokenizes captions for scoring: lower-case Penn-Treebank tokens without punctuation.

COCO's evaluation runs Stanford's PTBTokenizer, which needs Java, and drops punctuation. Scores over other tokens are not
comparable with it. This module implements the part of that tokenizer that captions exercise, as one regular expression.
Contractions and possessives are split (`ca n't`, `dog 's`). Hyphenated words, numbers, clock times, abbreviations and
addresses stay whole. Quotes and dashes become ASCII, brackets become `-lrb-` and so on, emoji are removed. The words of
5,000 captions of Flickr8k all equal those of the Java program; the test holds recorded output of that program.

Not supported: abbreviations beyond the list below, mixed fractions (`1 1/2` is two words here), `y'all` and
`rock'n'roll`, HTML entities, languages other than English. Runs such as `!!!`, which the Java pipeline happens to keep
as a word, are dropped here.
"""

import re

PUNCTUATION = frozenset(['"', "'", "`", ".", "?", "!", ",", ":", "-", ";"])
"""Punctuation that pycocoevalcap drops. It also lists brackets, but in upper case and after lower-casing, so `-lrb-`
stays in pycocoevalcap and here.
"""

_TO_ASCII = str.maketrans(
    {
        **dict.fromkeys("‘’‛′", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("–—―", " -- "),
        **dict.fromkeys("\u00a0\u2009\u202f\u3000\t\r\n\v\f", " "),
        "…": " .. ",
        "‐": "-",
        "‑": "-",
        "¢": " cents ",
        "£": " # ",
        "€": " $ ",
        "½": " 1/2 ",
        "¼": " 1/4 ",
        "¾": " 3/4 ",
        "\u00ad": None,
        "\ufeff": None,
    }
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPLIT = {
    "cannot": ["can", "not"],
    "gonna": ["gon", "na"],
    "wanna": ["wan", "na"],
    "gotta": ["got", "ta"],
    "gimme": ["gim", "me"],
    "lemme": ["lem", "me"],
    "'tis": ["'t", "is"],
    "'twas": ["'t", "was"],
}
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|st|jr|sr|prof|gen|rep|sen|gov|lt|sgt|capt|col|rev|messrs|vs|etc|inc|co|corp|ltd|bros|ave|blvd|rd|mt|ft|"
    "jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec"
)
_WORD = r"[^\W_]"
_TOKEN = re.compile(
    rf"""
      (?P<address> (?:https?://|www\.)[^\s"<>]*[^\s"<>.,;:!?')\]}}] | [\w.+-]+@[\w-]+(?:\.[\w-]+)+ )
    | (?P<tag> </?[a-z][^<>\s]*> )
    | (?P<dropped> \.(?:\ ?\.)+ | -{{2,}} | `` | '' )
    | (?P<handle> [@\#][a-z]\w* )
    | (?P<abbreviation> (?<![\w.])(?:{_ABBREVIATIONS})\.(?!\w) )
    | (?P<initials> (?<!\w)(?:[a-z]\.){{2,}}[a-z]?(?!\w) | (?<!\w)[a-z]\.(?=\ \S) )
    | (?P<numero> \bno\.(?=\ ?[0-9]) )
    | (?P<fixed> (?:\b(?:cannot|gonna|wanna|gotta|gimme|lemme)|(?<!\w)'(?:tis|twas))\b )
    | (?P<shortened> (?<!\w)'n'?(?!\w) | (?<!\w)'[0-9]0s\b | \bo'clock\b | \bma'am\b | \bd'you\b )
    | (?P<negated> [a-z]+?(?=n't\b) )
    | (?P<not> n't\b )
    | (?P<suffix> '(?:s|m|d|re|ve|ll)\b )
    | (?P<number> [0-9]+(?:[.,:/][0-9]+)+ (?![\w]) )
    | (?P<word> {_WORD}(?:\w|[-/&](?=\w)|(?<=[a-z])\.(?=[a-z]{{2,}})|(?<=\b[odl])'(?={_WORD}{{2,}}))* )
    | (?P<other> \S )
    """,
    re.VERBOSE,
)


def words(caption: str) -> list[str]:
    """The scored words of a caption, in order; empty if the caption is only punctuation."""
    found: list[str] = []
    for match in _TOKEN.finditer(caption.translate(_TO_ASCII).lower()):
        if match.lastgroup == "dropped":
            continue
        found += _SPLIT.get(match.group(), [_BRACKETS.get(match.group(), match.group())])
    return [word for word in found if word not in PUNCTUATION and word[0] <= "\uffff"]
