"""Which tokens of a backbone say nothing: special ones, and those that its tokenizer does not know.

Random weights choose such tokens now and then, and an answer has no piece for them. Who counts pieces, or the time between two, would see
one step where there were two, and a side that sends nothing for a token has less to do than one that sends an empty piece. So backbones
of random weights are made such that they are never chosen: a row of zeros gives 0, and the largest of many random numbers is above it.
"""

import json
from pathlib import Path


def silent(backbone: Path, vocabulary: int) -> list[int]:
    """Returns those of a folder's tokenizer, up to a vocabulary's size."""
    tokenizer = json.loads((backbone / "tokenizer.json").read_text())
    added = tokenizer["added_tokens"]
    spoken = {*tokenizer["model"]["vocab"].values(), *(token["id"] for token in added)}
    spoken -= {token["id"] for token in added if token["special"]}
    return [number for number in range(vocabulary) if number not in spoken]
