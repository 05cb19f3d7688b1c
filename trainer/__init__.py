"""lazytower's training, evaluation, serving and jobs."""

from lazytower_entry import check_imports

check_imports("configs")
