"""From intent to broker and back: desk, broker adapter, reconcile, schedule, runner, embedded venue."""
