"""The seven words: pattern, criterion, allocation, schedule, growth, flow and mask. They speak of any tensor."""

from .allocation import ER, ERK, LAMP, Allocation, ERKPlus, Global, Ratios, Uniform, UniformPlus
from .criterion import SNIP, Criterion, Gradient, GraSP, Magnitude, Movement, Random, Reversed, Stats, SynFlow, Taylor
from .flow import SRSTE, Bidirectional, Fading, Flow, Frozen, Hard, Penalised, Shrinking, StraightThrough
from .growth import GrowGradient, GrowMomentum, GrowNone, GrowRandom, Growth
from .mask import MaskSet
from .pattern import NM, Block, Column, Kernel, Pattern, Row, Unstructured, pattern
from .schedule import Constant, Cosine, Cubic, Linear, MultiCycle, OneShot, Schedule, Steps
from .selection import indices, kept, select, select_many
from .word import Word

__all__ = [
    "ER",
    "ERK",
    "LAMP",
    "NM",
    "SNIP",
    "SRSTE",
    "Allocation",
    "Bidirectional",
    "Block",
    "Column",
    "Constant",
    "Cosine",
    "Criterion",
    "Cubic",
    "ERKPlus",
    "Fading",
    "Flow",
    "Frozen",
    "Global",
    "GraSP",
    "Gradient",
    "GrowGradient",
    "GrowMomentum",
    "GrowNone",
    "GrowRandom",
    "Growth",
    "Hard",
    "Kernel",
    "Linear",
    "Magnitude",
    "MaskSet",
    "Movement",
    "MultiCycle",
    "OneShot",
    "Pattern",
    "Penalised",
    "Random",
    "Ratios",
    "Reversed",
    "Row",
    "Schedule",
    "Shrinking",
    "Stats",
    "Steps",
    "StraightThrough",
    "SynFlow",
    "Taylor",
    "Uniform",
    "UniformPlus",
    "Unstructured",
    "Word",
    "indices",
    "kept",
    "pattern",
    "select",
    "select_many",
]
