"""JSON values that files must not hold where others are expected."""

import json


def nested(depth: int) -> str:
    """Lists in lists."""
    return "[" * depth + "]" * depth


NUMBERS = (0, 1, -1, 31, 32, 33, 64, 320, 8192, 8224, 2**31, 2**53, 2**63, 2**64, 10**30, 32 * 10**12)
VALUES = [
    *map(str, NUMBERS),
    *(f"[{number}, 320]" for number in NUMBERS),
    *(f"[{number}]" for number in NUMBERS),
    *("1e3", "320.0", "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "-0", "0x20", "9" * 4300, "9" * 10**5),
    *(
        "true",
        "false",
        "null",
        "",
        " ",
        "{",
        "]",
        "\x00",
        '"',
        "{}",
        "[]",
        "[[]]",
        '""',
        '"yolo11n"',
        '"yolo11x"',
        '"yolo9"',
    ),
    *(nested(depth) for depth in (10, 900, 10**4, 10**6)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (10, 900, 10**5)),
    *(
        json.dumps(names)
        for names in ([], ["a"], ["a", "a"], ["\ud800", "\udfff"], ["\x1b[2J", "a\nb\u2028"], ["", " "], [1, 2])
    ),
    *(json.dumps(["a"] * count) for count in (3, 10**3, 10**6)),
    *(json.dumps(list(range(count))) for count in (3, 10**3, 10**6)),
    *(json.dumps(ids) for ids in ([True, 2], [1.0, 2], ["1", 2], [1, 1], [None, 1], [2**63, 1], [-(2**63), 1])),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '{"a": 1, "a": 2}', '{"AP": "x"}', '{"AP": NaN}', '"\ufeff"'),
]
"""Texts, most of them JSON: sizes in many forms, deep, long, doubled, half a surrogate pair, no JSON at all."""
