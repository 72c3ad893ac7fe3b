"""How the small default backbone was made: its curriculum, its tokenizer, its training. `graft backbone build` runs it.

Nothing at run time depends on this package; the weights it made ship in `graftwork/backbone`.
"""
