"""Checks signatures by the official Standard Webhooks library.

A line of standard input is {"secret", "headers", "body"} (the body in base64); the line that
answers it is "valid", or "refused" and why.
"""

import base64
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

for line in sys.stdin:
    check = json.loads(line)
    body = base64.b64decode(check["body"])
    try:
        Webhook(check["secret"]).verify(body, check["headers"])
        print("valid")
    except WebhookVerificationError as error:
        print(f"refused: {error}")
