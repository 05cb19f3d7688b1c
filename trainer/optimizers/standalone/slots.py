"""State of variables under an optimizer: the step, and slots that are found by their variable."""

import abc
import types

import tensorflow as tf

from trainer.optimizers.checks import check_variable


class Slots(tf.Module, abc.ABC):
    """Step counter and slots of plain variables.

    In a tf.train.Checkpoint they are slots of a variable, as those of Keras' legacy optimizers and of
    TF-Addons are: a variable finds its own again in whatever order variables are trained. Hence the
    checkpoint must hold the variables beside the optimizer; one that does not is refused.

    Attributes:
      iterations: int64, steps done.
    """

    def __init__(self, name: str):
        super().__init__(name=name)
        self.iterations = tf.Variable(0, dtype=tf.int64, trainable=False, name="iterations")
        self._slots = self._no_dependency([])  # of each variable, by name
        # A namespace is what neither tf.Module nor checkpoints look into.
        self._seen = types.SimpleNamespace(places={}, saved=set(), exporting=False)

    @abc.abstractmethod
    def make(self, variable) -> dict[str, tf.Variable]:
        """New slots of a variable, by name; at least one where the optimizer has state."""

    def build(self, variables) -> None:
        """Makes the slots of variables that have none."""
        for variable in variables:
            if variable.ref() not in self._seen.places:
                check_variable(variable)
                with tf.init_scope():  # outside any graph that is being traced: slots outlive it
                    self._slots.append(self.make(variable))
                self._seen.places[variable.ref()] = len(self._slots) - 1

    def of(self, variable) -> dict[str, tf.Variable]:
        """The slots of a variable by name, made when there are none."""
        self.build([variable])
        return self._slots[self._seen.places[variable.ref()]]

    # What tf.train.Checkpoint asks of optimizers.

    def get_slot_names(self) -> list[str]:
        """Names of all slots."""
        self._seen.saved = set()
        return [] if self._seen.exporting else list(dict.fromkeys(n for own in self._slots for n in own))

    def get_slot(self, variable, name: str):
        """A slot of a variable; None where there is none."""
        place = self._seen.places.get(variable.ref()) if isinstance(variable, tf.Variable) else None
        if place is None or self._seen.exporting:
            return None
        self._seen.saved.add(place)
        return self._slots[place].get(name)

    def _create_or_restore_slot_variable(self, slot_variable_position, slot_name, variable, **unused):
        return self.of(variable).get(slot_name)

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)
        # A SavedModel is loaded without this class, hence with slots that are variables as any other.
        self._seen.exporting = save_type == "savedmodel"
        if self._seen.exporting:
            for place, own in enumerate(self._slots):
                children |= {f"{name}_{place:03d}": slot for name, slot in own.items()}
        return children

    def _lookup_dependency(self, name, cached_dependencies=None):
        if name in ("slots", "_slots"):
            raise ValueError(
                "this checkpoint keeps slots in the order of first use, as lazytower did before; restore it "
                "with the version that wrote it, and save it with tf.train.Checkpoint in this one"
            )
        return super()._lookup_dependency(name, cached_dependencies)

    def _serialize_to_tensors(self) -> dict:
        """Nothing of its own; by now a checkpoint has asked for the slots of all its variables."""
        missing = [p for p, own in enumerate(self._slots) if own and p not in self._seen.saved]
        if missing and not self._seen.exporting:
            names = sorted(next(iter(self._slots[place].values())).name for place in missing)
            raise ValueError(
                f"this checkpoint holds the optimizer without {len(missing)} of its variables, hence without "
                f"their slots ({names[0]} ...); give tf.train.Checkpoint the variables, or the model, too"
            )
        return {}

    @tf.autograph.experimental.do_not_convert
    def _restore_from_tensors(self, restored_tensors) -> None:
        """See _serialize_to_tensors."""
