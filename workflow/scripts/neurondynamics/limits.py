"""What both the work and the checks and estimates of it go by; nothing heavy is imported here."""

from collections.abc import Sequence

ROWS_PER_CHUNK = 16  # of a store: a chunk of a layer of 14,336 neurons fits HDF5's cache of 1 MB
NETWORKS = ("detoxify", "classifier")  # kinds of scorers that run a network on a `device`
TOKENS_PER_PASS = 1024  # of the text read at once for token losses; more is no faster
FOLLOWED_TEXTS = 32  # of the other model that are read at once; prompts are prefilled by as many
GRADIENT_TEXTS = 8  # that are read at once where a backward pass follows
LOGITS_OF_GRADIENTS = 2**24  # of a block of positions there, of which a few are held at once
LOGIT_BYTES = 2**21  # of a block of logits, of which a few are held at once, near a core
# of controlled units that may be drawn again; where more are, there is no control
MOST_DRAWN_AGAIN = 1 / 3
# of a transplant, the parts that every layer has
PARTS_OF_LAYERS = ("attention", "queries", "keys", "values", "attention_output")
PARTS_OF_LAYERS += ("mlp", "mlp_input", "mlp_output", "norms")
THIRDS = ("early", "middle", "late")
# of a selection, what only neurons have
OF_NEURONS = {
    "groups": "heads are in no groups, since they have no direction and no sign of their own",
    "activated": "a head is neither positively nor negatively activated",
}
NO_COSINE = "heads have no cosine; rank them by reduction or change"
NO_KEY_VALUES = "blocks have key/value heads, which only a transplant moves; patch `all`"
# of the kinds of units, the modules that tables name them by
MODULES_OF = {"neurons": "mlp", "heads": "attention", "key_values": "key_values"}
OF_GRADIENTS = ("weight_change", "gradient_transplant", "gradient_patch")  # of every unit


def layers_of(named: Sequence[int] | str, number: int) -> range:
    """Return layers out of a number of them: [first, last], both included, or one of THIRDS, which
    have a layer each even where there are fewer than three."""
    if named in THIRDS:
        third = THIRDS.index(named)
        first = number * third // 3
        return range(first, max(first + 1, number * (third + 1) // 3))
    first, last = named
    return range(first, last + 1)
