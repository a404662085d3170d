"""A conformance kit for back ends: what a :class:`~trio_ws.Backend` must do, as checks that any test can call.

Subclass :class:`BackendHarness` for the engine, and call each of :data:`BACKEND_CHECKS` with a new one. With pytest and
pytest-trio::

    class NatsHarness(BackendHarness):
        has_positions = False

        def make(self) -> trio_ws.Backend:
            return NatsBackend("nats://127.0.0.1:4222")


    @pytest.mark.parametrize("check", BACKEND_CHECKS)
    async def test_nats(check: BackendCheck) -> None:
        await check(NatsHarness())

The checks use topics with random names, so that the engine may be in use. They take real time if the engine does.

==============================================  ====================================================
:mod:`~trio_ws.testing.backends.harness`        ``BackendHarness``: what the checks need to know
:mod:`~trio_ws.testing.backends.messages`       messages: types, order, subscriptions
:mod:`~trio_ws.testing.backends.positions`      positions and history
:mod:`~trio_ws.testing.backends.sessions`       members, entering, outages
==============================================  ====================================================
"""

from .harness import BackendCheck, BackendHarness
from .messages import (
    check_cancelled_calls,
    check_large_batches,
    check_markers,
    check_messages_arrive,
    check_names_of_topics,
    check_subscriptions_are_effective,
    check_unsubscribing,
)
from .positions import check_history, check_idempotence, check_positions, check_resuming
from .sessions import check_emptied_engine, check_entering_again, check_interruption, check_members

__all__ = ["BACKEND_CHECKS", "BackendCheck", "BackendHarness"]

#: The checks. Each takes a harness, and raises ``AssertionError`` if the back end does something wrong.
BACKEND_CHECKS: tuple[BackendCheck, ...] = (
    check_messages_arrive,
    check_names_of_topics,
    check_large_batches,
    check_subscriptions_are_effective,
    check_unsubscribing,
    check_markers,
    check_cancelled_calls,
    check_positions,
    check_resuming,
    check_history,
    check_idempotence,
    check_members,
    check_entering_again,
    check_interruption,
    check_emptied_engine,
)
