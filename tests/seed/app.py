from flask import Flask, request, jsonify
import requests
import logging
import time

app = Flask(__name__)
logging.basicConfig(level=logging.INFO)

@app.route('/incoming', methods=['POST'])
def receive_message():
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
                "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ")
            }
        }

        requests.post(response_url, json=response_payload, timeout=5)

        return jsonify({"success": True, "message": "Response sent"}), 200

    except Exception as e:
        logging.error(f"Error: {e}")
        return jsonify({"success": False, "error": str(e)}), 500

if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5001)
