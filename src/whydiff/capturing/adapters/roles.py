"""What part an operator plays in a program: other rooms ask for this, and never for an operator's name."""

from __future__ import annotations

from enum import Enum


class Role(Enum):
    """A part that an operator can play; one operator may play several."""

    PRODUCT = "a matrix product whose operands `Adapter.places` tells"
    ROWS = "such a product whose right operand has the summed axis last"
    MATRIX = "a plain matrix product, which batch-invariant forms are made for first"
    CONVOLUTION = "a convolution"
    SUM = "a sum or mean over axes"
    TERMS = "adds up many terms, in an order of its own"
    MEAN = "a sum that is divided by the number of its terms"
    SCAN = "a sum of all before, along one axis"
    NORM = "a layer norm or RMS norm"
    BATCH_NORM = "a norm with one mean and variance per channel"
    GROUP_NORM = "a norm with one mean and variance per group of channels"
    SPREAD = "a variance or standard deviation"
    SOFTMAX = "a softmax or its logarithm"
    LOGARITHMIC = "its result is a logarithm"
    ATTENTION = "an attention kernel"
    SCORED = "a softmax, spelt out or inside an attention kernel"
    ELEMENTWISE = "each element of the result depends on one element of each operand"
    GELU = "the Gaussian error linear unit"
    SILU = "x times its sigmoid"
    CANCELS = "elementwise, and its usual formula cancels where the result is small (1 + erf x)"
    CAST = "the same numbers, perhaps rounded to another dtype"
    CARRIES = "the same numbers, looked at otherwise: transposed, reshaped, cast, copied"
    REPEATS = "the same numbers, several times over"
    JOINS = "puts values behind each other along an axis"
    REVERSES = "turns a value around along an axis"
    LIMITS = "keeps what it reads between limits"
    TABLE = "takes rows or elements of a table by index"
    ANGLE = "makes angles into rotations or sinusoids"
    ROOT = "a root or a division"
    DIFFERENCE = "subtracts its second operand from its first"
    PLUS = "adds two operands"
    TIMES = "multiplies two operands, element by element"
    DRAWS = "draws random numbers from a state that it reads"
    SHAPE_ONLY = "looks at no more than the shape of what it reads"
