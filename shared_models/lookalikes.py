"""Text as a reader sees it: letters of other alphabets that look like Latin ones become these, what cannot be seen goes.

For guards that must not be led round by spelling (sensitive.py, pressure.py). Source of the pairs: Unicode Technical Standard 39,
confusables.txt, of which the lower-case letters and small capitals stand here that any font shows like a Latin letter.
"""

from __future__ import annotations

import re
import unicodedata
from functools import partial

_PAIRS = (
    "аaвbсcԁdеeһhіiјjкkӏlмmнhоoрpԛqгrѕsтtцuѵvԝwхxуyзzпnбb"  # Cyrillic
    "αaβbεeγyηnιiκkνvοoρpτtυuχxωwμuσo"  # Greek
    "օoսuոnհhցgեeԛqքpզq"  # Armenian
    "ᴀaʙbᴄcᴅdᴇeꜰfɢgʜhɪiᴊjᴋkʟlᴍmɴnᴏoᴘpʀrꜱsᴛtᴜuᴠvᴡwʏyᴢz"  # small capitals
    "ıiɩiɑaɡgɛeɔołløođdħhŧtƅbȷjʋvƶz"  # other Latin
)
_MAP = {ord(other): latin for other, latin in zip(_PAIRS[::2], _PAIRS[1::2], strict=True)}
_MAP |= {ord(char): " " for char in "\t\n\r\x0b\x0c"}
_CAPITALS = {
    ord(chr(other).upper()): latin.upper()
    for other, latin in _MAP.items()
    if len(chr(other).upper()) == 1 and chr(other).upper() != chr(other) and chr(other) != "ı"
}
_TABLE = {**_CAPITALS, **_MAP}
_LEET = str.maketrans("013457890@$!|€", "oieastbgoas" + "ile")
_LEET_L = str.maketrans("013457890@$!|€", "oleastbgoas" + "lle")
_WORD = re.compile(r"[a-z0-9@$!|€]+")


def latin(text: str) -> str:
    """`text` in plain Latin letters, capitals kept: no accents, nothing invisible, look-alikes replaced, "ß" as "ss"."""
    if text.isascii():
        return text
    spread = unicodedata.normalize("NFKD", text).translate(_TABLE)
    seen = [
        char
        for char in spread
        if not unicodedata.combining(char) and unicodedata.category(char) not in ("Cf", "Cc", "Cn")
    ]
    return "".join(seen).replace("ß", "ss").replace("æ", "ae").replace("œ", "oe").replace("ẞ", "SS")


def without_digits(text: str) -> tuple[str, ...]:
    """How lower-case `text` reads if digits and signs inside words stand for letters ("pr3gnant"): none, one or two readings.

    Digits at the end of a word number it, and stay.
    """
    found = {_WORD.sub(partial(_read, table), text) for table in (_LEET, _LEET_L)}
    return tuple(sorted(found - {text}))


def _read(table: dict[int, int], found: re.Match[str]) -> str:
    word = found.group()
    body = word.rstrip("0123456789")
    return word if body.isalpha() else body.translate(table) + word[len(body) :]
