"""`lazytower inspect` on prepared datasets: counts, keys and rows equal those of the source."""

import pytest

from pipelines.prepare import prepare
from tests.support.documents import run_config
from trainer import cli

EVENTS = """user,item,label,color,tags,price
u1,i1,1,red,a|b,1.5
u1,i2,1,blue,b,2.5
u2,i1,1,red,a|b,1.5
u2,i3,0,,,
u3,i2,1,blue,b,2.5
u3,i1,1,red,a|b,1.5
"""
