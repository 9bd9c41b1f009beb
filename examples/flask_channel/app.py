"""A channel server: takes a message, sends it to its platform (here: pretends to), answers.

The gateway posts {"session_id", "message", "response_url"} to /incoming. The answer goes to
response_url as {"session_id", "response_data"}. A try that fails here (any 5xx) is made again, so
the same message can come twice: its `webhook-id` header is the same each time.

With the channel's signing secret in SIGNING_SECRET it takes what the gateway has signed, and nothing
else. Without, it takes whatever anybody posts: good for a first try on one machine.
"""

from flask import Flask, request, jsonify
from standardwebhooks import Webhook, WebhookVerificationError
import requests
import logging
import os
import time

app = Flask(__name__)
logging.basicConfig(level=logging.INFO)

signing_secret = os.environ.get("SIGNING_SECRET")
webhook = Webhook(signing_secret) if signing_secret else None

@app.route('/incoming', methods=['POST'])
def receive_message():
    if webhook:
        try:
            # The body as it came: a signature is of its bytes.
            webhook.verify(request.get_data(), request.headers, json_parse=False)
        except (WebhookVerificationError, ValueError) as e:
            logging.warning(f"Refused: {e}")
            return jsonify({"success": False, "error": "Not signed by the gateway"}), 401

    try:
        data = request.json
        session_id = data.get("session_id")
        message = data.get("message")
        response_url = data.get("response_url")

        if not session_id or not message or not response_url:
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

        # An answer that the gateway did not take is a failed try, or it would be lost.
        requests.post(response_url, json=response_payload, timeout=5).raise_for_status()

        return jsonify({"success": True, "message": "Response sent"}), 200

    except Exception as e:
        logging.error(f"Error: {e}")
        return jsonify({"success": False, "error": str(e)}), 500

if __name__ == "__main__":
    app.run(host="127.0.0.1", port=5001)
