"""soak.py - a small size of each part of test/soak/serve_soak.py, which says what they claim.

Nothing here rests on time: what is said about milliseconds is held by the script itself, with --free-ms.
"""

import os
import sys

from harness import ROOT, Skip, claim, main, sanitized

sys.path.insert(0, os.path.join(ROOT, "test", "soak"))
import serve_soak  # noqa: E402

SIZE = 1 if sanitized() else 4


@claim
def streams_at_the_same_moment_lose_no_token():
    r = serve_soak.streams(50 * SIZE)
    assert r["live_at_once"] == 50 * SIZE, r


@claim
def clients_that_leave_in_every_state_free_what_they_had():
    r = serve_soak.aborts(63 * SIZE, 0, 1)
    assert all(r["states"].values()), r


@claim
def slow_clients_are_cut_off_and_others_answered():
    serve_soak.slow(8 * SIZE)


@claim
def memory_files_and_threads_stay_as_they_are():
    if sanitized():
        raise Skip("a sanitizer keeps memory that was freed")
    serve_soak.requests(2000, 1)


main()
