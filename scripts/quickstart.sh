#!/usr/bin/env bash
# From nothing to recommendations on a CPU: raw interactions -> dataset -> training -> metrics -> SavedModel.
# Extra arguments go to every command, such as: --set train.num_epochs=2
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

config=configs/quickstart.yaml
lazytower prepare --config "$config" "$@"
lazytower train --config "$config" "$@"
lazytower evaluate --config "$config" "$@"
lazytower export --config "$config" "$@"
lazytower recommend --config "$config" "$@" --num_users 3 --k 5
