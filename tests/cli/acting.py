"""What tests of the command line share beside fixtures."""

import json
import threading

REQUEST = {"command": ["true"], "name": "digits"}


def last_request(double, path="/v1/jobs"):
    """The body that was sent there last."""
    bodies = [json.loads(body) for _, asked, _, body in double.requests if asked == path and body]
    return bodies[-1]


def play(double, moves):
    """Let a job live beside the command under test."""

    def live():
        with double.changed:
            double.changed.wait_for(lambda: double.jobs)
        moves()

    thread = threading.Thread(target=live)
    thread.start()
    return thread
