"""A channel server: takes a message, sends it to its platform (here: pretends to), answers.

The gateway posts {"session_id", "message", "response_url"} to /incoming. The answer goes to
response_url as {"session_id", "response_data"}. An attempt that fails here (any 5xx) is repeated, so
the same message can come again: its `webhook-id` header is the same each time, and it is dropped.

With the channel's signing secret in SIGNING_SECRET it takes what the gateway has signed, and nothing
else. Without, it takes whatever anybody posts: good for a first try on one machine.
"""

from flask import Flask, request, jsonify
from standardwebhooks import Webhook, WebhookVerificationError
import requests
import logging
import os
import threading
import time

app = Flask(__name__)
logging.basicConfig(level=logging.INFO)

signing_secret = os.environ.get("SIGNING_SECRET")
webhook = Webhook(signing_secret) if signing_secret else None

# The latest messages, by webhook-id: whether the work is done. In memory, so a restart forgets them;
# keep them in a database where a message must not reach the platform twice.
MAX_SEEN = 10_000
seen = {}
lock = threading.Lock()

@app.route('/incoming', methods=['POST'])
def receive_message():
    if webhook:
        try:
            # The body as it came: a signature is of its bytes.
            webhook.verify(request.get_data(), request.headers, json_parse=False)
        except (WebhookVerificationError, ValueError) as e:
            logging.warning(f"Refused: {e}")
            return jsonify({"success": False, "error": "Not signed by the gateway"}), 401

    webhook_id = request.headers.get("webhook-id")
    with lock:
        done = seen.get(webhook_id)
        if webhook_id and done is None:
            seen[webhook_id] = False
            if len(seen) > MAX_SEEN:
                del seen[next(iter(seen))]
    if done:
        logging.info(f"Dropped a repeat of {webhook_id}")
        return jsonify({"success": True, "message": "Known already"}), 200
    if done is False:
        # The first request is still at work. If it fails, the message must come again.
        return jsonify({"success": False, "error": "Still at work on it"}), 503

    succeeded = False
    try:
        data = request.json
        session_id = data.get("session_id")
        message = data.get("message")
        response_url = data.get("response_url")

        # 0 and false are messages too.
        if not session_id or message is None or not response_url:
            return jsonify({"success": False, "error": "Missing required fields"}), 400

        logging.info(f"Received message for session {session_id}: {message}")

        # Simulated message send
        time.sleep(1)

        response_payload = {
            "session_id": session_id,
            "response_data": {
                "text": f"Received message: '{message}'",
                "platform": "Slack (simulated)",
                "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            }
        }

        # An answer that the gateway did not take is a failed attempt, or it would be lost.
        requests.post(response_url, json=response_payload, timeout=5).raise_for_status()

        succeeded = True
        return jsonify({"success": True, "message": "Response sent"}), 200

    except Exception as e:
        logging.error(f"Error: {e}")
        return jsonify({"success": False, "error": str(e)}), 500

    finally:
        if webhook_id:
            with lock:
                if succeeded:
                    seen[webhook_id] = True
                else:
                    seen.pop(webhook_id, None)

if __name__ == "__main__":
    app.run(host="127.0.0.1", port=5001)
