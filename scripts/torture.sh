#!/usr/bin/env bash
# Sets up everything, then kills a training run 100 times and damages its checkpoints 200 times (about 15
# minutes on 2 cores; TORTURE_KILLS and TORTURE_DAMAGES change the numbers), prepares 200 random tables from
# every format, reads 300 more and 2,000 damaged files, changes sources 200 times while they are prepared, runs
# jobs in 300 random worlds, kills `lazytower day` 50 times (DAY_KILLS) and `lazytower score` 20 times (SCORE_KILLS),
# compares the lists of 1,000 users with those of `lazytower recommend` (SCORE_USERS), and kills, cuts off and
# stops hosts of a cluster 50, 10 and 10 times (CLUSTER_KILLS, CLUSTER_CUTS, CLUSTER_STOPS; root only).
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

python -m pytest -q -m torture "$@"
