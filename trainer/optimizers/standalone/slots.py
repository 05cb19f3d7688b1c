"""Optimizer state of plain variables: the step, and slots by variable."""

import abc
import types

import tensorflow as tf

from trainer.optimizers.checks import check_variable


class Slots(tf.Module, abc.ABC):
    """Step counter and slots of plain variables.

    tf.train.Checkpoint saves them as slots of a variable, like those of Keras' legacy optimizers and of
    TF-Addons, so they are restored in whatever order variables are trained. The checkpoint must therefore
    contain the variables as well as the optimizer; saving raises ValueError otherwise.

    Attributes:
      iterations: int64, number of completed steps.
    """

    def __init__(self, name: str):
        super().__init__(name=name)
        self.iterations = tf.Variable(0, dtype=tf.int64, trainable=False, name="iterations")
        self._slots = self._no_dependency([])  # for each variable, slots by name
        # In a namespace, because tf.Module and checkpoints do not traverse those.
        self._seen = types.SimpleNamespace(places={}, saved=set(), exporting=False)

    @abc.abstractmethod
    def make(self, variable) -> dict[str, tf.Variable]:
        """New slots of a variable, by name; at least one if the optimizer has state."""

    def build(self, variables) -> None:
        """Creates the slots of variables that have none."""
        for variable in variables:
            if variable.ref() not in self._seen.places:
                check_variable(variable)
                with tf.init_scope():  # outside the traced graph, which slots outlive
                    self._slots.append(self.make(variable))
                self._seen.places[variable.ref()] = len(self._slots) - 1

    def of(self, variable) -> dict[str, tf.Variable]:
        """The slots of a variable by name; creates missing ones."""
        self.build([variable])
        return self._slots[self._seen.places[variable.ref()]]

    # The interface that tf.train.Checkpoint requires of optimizers.

    def get_slot_names(self) -> list[str]:
        """Names of all slots."""
        self._seen.saved = set()
        return [] if self._seen.exporting else list(dict.fromkeys(n for own in self._slots for n in own))

    def get_slot(self, variable, name: str):
        """A slot of a variable, or None."""
        place = self._seen.places.get(variable.ref()) if isinstance(variable, tf.Variable) else None
        if place is None or self._seen.exporting:
            return None
        self._seen.saved.add(place)
        return self._slots[place].get(name)

    def _create_or_restore_slot_variable(self, slot_variable_position, slot_name, variable, **unused):
        return self.of(variable).get(slot_name)

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)
        # A SavedModel is loaded without this class, so its slots are ordinary variables.
        self._seen.exporting = save_type == "savedmodel"
        if self._seen.exporting:
            for place, own in enumerate(self._slots):
                children |= {f"{name}_{place:03d}": slot for name, slot in own.items()}
        return children

    def _lookup_dependency(self, name, cached_dependencies=None):
        if name in ("slots", "_slots"):
            raise ValueError(
                "this checkpoint stores slots in order of first use, as an earlier version of lazytower did; "
                "restore it with that version"
            )
        return super()._lookup_dependency(name, cached_dependencies)

    def _serialize_to_tensors(self) -> dict:
        """Returns no tensors; checks that the checkpoint has requested the slots of all variables."""
        missing = [p for p, own in enumerate(self._slots) if own and p not in self._seen.saved]
        if missing and not self._seen.exporting:
            names = sorted(next(iter(self._slots[place].values())).name for place in missing)
            raise ValueError(
                f"this checkpoint has the optimizer without {len(missing)} of its variables, so their slots "
                f"({names[0]} ...) would be lost; pass the variables or the model to tf.train.Checkpoint, too"
            )
        return {}

    @tf.autograph.experimental.do_not_convert
    def _restore_from_tensors(self, restored_tensors) -> None:
        """See _serialize_to_tensors."""
