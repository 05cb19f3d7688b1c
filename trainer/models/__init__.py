"""Models, by kind."""

from trainer.models.dot_bias import DotBias
from trainer.models.ranking import Ranking
from trainer.models.two_tower import TwoTower

MODELS = {"two_tower": TwoTower, "dot_bias": DotBias, "ranking": Ranking}
