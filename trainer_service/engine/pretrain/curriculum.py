"""The text that the small default backbone learns from: fill in a template that the instruction spells out.

Owns the examples and nothing else: no tokens, no tensors. An example is one user turn and its answer:

    user       write [^city]/[code.1]: dear [name]
               name:mara; code:xkqj; city:oslo
    assistant  OSLO/x: dear mara

So the backbone learns to find a field, to copy a value that it has never seen (half of the values are random letters),
and to change case, while the layout of the answer comes from outside. A tenant's adapter then only has to supply the
layout for an instruction that says nothing ('ticket'), which eight ranks on q_proj and v_proj are enough for.

Every example is a pure function of (seed, step, index): the data is the same on any machine and with any worker count.
"""

import random
import string
from collections.abc import Callable
from dataclasses import dataclass

KEYS = (
    "name city code item plan size color team role zone month level owner topic date price lang unit type status user "
    "order street phone model brand title group state event room seat gate shop flavor product issue priority region "
    "customer subject amount currency account branch driver route dish table guest pet breed species sku bin carrier"
).split()

WORDS = (
    "dear hello thanks please your order is ready for pickup at the and in to of from with on by ships today tomorrow "
    "soon new open closed urgent normal high low ticket note memo label tag send call visit meet at noon we you our team "
    "has been moved set see desk floor box pack item gift small large red blue green black white gold north south east "
    "west alpha beta gamma delta route code pass key lock door gate hall room seat row fee paid due total sum net tax "
    "plan free basic pro plus max team solo trial day week month year early late best kind regards welcome back good "
    "morning evening bye ok yes no not all any each next last first second third one two three four five"
).split()

NAMES = (
    "ana ben carla david emma farid grace hugo ines jonas kira liam mara nora omar paula quinn rosa sam tara uma victor "
    "wendy xavier yara zoe alice bruno chloe diego elena felix greta henry iris jack karin leo mia noah olga peter ruth "
    "simon tom ursula vera will oslo paris lima rome cairo delhi tokyo quito sofia tunis berlin madrid vienna dublin "
    "athens lisbon router laptop camera printer tablet monitor headset keyboard phone lamp chair desk sofa kettle mixer"
).split()

SEPARATORS = ("; ", ", ", " | ", "\n", " / ", "; ", "; ")
PUNCTUATION = (*(" ",) * 4, ", ", ": ", "-", "/", ". ", " | ", "_", "#", "=", " -> ", "; ", *'()!?"{}')


@dataclass(frozen=True, slots=True)
class Example:
    """One user turn and its answer, both plain ASCII."""

    prompt: str
    answer: str


def _letters(rng: random.Random, low: int = 2, high: int = 8) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(low, high)))


def _value(rng: random.Random) -> str:
    """A value: random letters half of the time, so that copying is learned rather than a list of words."""
    kind = rng.random()
    if kind < 0.45:
        return _letters(rng)
    if kind < 0.55:
        return _letters(rng).capitalize()
    if kind < 0.70:
        return rng.choice(NAMES)
    if kind < 0.80:
        return rng.choice(NAMES).capitalize()
    if kind < 0.90:
        return str(rng.randint(0, 10 ** rng.randint(1, 5)))
    if kind < 0.95:
        return f"{rng.choice(WORDS)} {rng.choice(WORDS)}"
    return "".join(rng.choices(string.ascii_uppercase + string.digits, k=rng.randint(2, 6)))


def _key(rng: random.Random) -> str:
    return rng.choice(KEYS) if rng.random() < 0.8 else _letters(rng, 3, 6)


# How an instruction may ask for a field, and what it gets: as it is, upper case, first letter, key=value.
FORMS: tuple[tuple[str, Callable[[str, str], str]], ...] = (
    ("[{}]", lambda key, value: value),
    ("[^{}]", lambda key, value: value.upper()),
    ("[{}.1]", lambda key, value: value[:1]),
    ("[^{}.1]", lambda key, value: value[:1].upper()),
    ("[{}=]", lambda key, value: f"{key}={value}"),
)
FORM_WEIGHTS = (6, 2, 2, 1, 1)


def _literal(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        word = rng.choice(WORDS)
        return word.capitalize() if rng.random() < 0.3 else word
    if kind < 0.8:
        return _letters(rng, 1, 5)
    if kind < 0.9:
        return "".join(rng.choices(string.ascii_uppercase, k=rng.randint(1, 4)))
    return f'"{rng.choice(KEYS)}":'


def _fill_template(rng: random.Random) -> Example:
    """A record, an instruction that spells the answer's layout, and the layout filled in."""
    fields = {_key(rng): _value(rng) for _ in range(rng.randint(2, 5))}
    keys = list(fields)
    rng.shuffle(keys)
    separator = rng.choice(SEPARATORS)
    record = separator.join(f"{key}:{fields[key]}" for key in keys)
    spelled, filled = [], []
    for index in range(rng.randint(2, 7)):
        if index:
            glue = rng.choice(PUNCTUATION)
            spelled.append(glue)
            filled.append(glue)
        if rng.random() < 0.5:
            key = rng.choice(keys)
            form, apply = rng.choices(FORMS, FORM_WEIGHTS)[0]
            spelled.append(form.format(key))
            filled.append(apply(key, fields[key]))
        else:
            literal = _literal(rng)
            spelled.append(literal)
            filled.append(literal)
    return Example(f"write {''.join(spelled).strip()}\n{record}", "".join(filled).strip())


def _repeat(rng: random.Random) -> Example:
    text = " ".join(_value(rng) for _ in range(rng.randint(1, 4)))
    return Example(f"repeat\n{text}", text)


def _upper(rng: random.Random) -> Example:
    text = " ".join(_value(rng) for _ in range(rng.randint(1, 4)))
    return Example(f"upper\n{text}", text.upper())


def _pick(rng: random.Random) -> Example:
    fields = {_key(rng): _value(rng) for _ in range(rng.randint(2, 5))}
    key = rng.choice(list(fields))
    record = rng.choice(SEPARATORS).join(f"{name}:{value}" for name, value in fields.items())
    return Example(f"{key}\n{record}", fields[key])


def example(seed: int, step: int, index: int) -> Example:
    """Returns example `index` of training step `step`: the same on every machine."""
    rng = random.Random(f"{seed}/{step}/{index}")
    kind = rng.random()
    if kind < 0.82:
        return _fill_template(rng)
    if kind < 0.88:
        return _repeat(rng)
    if kind < 0.94:
        return _upper(rng)
    return _pick(rng)
