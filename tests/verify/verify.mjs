// Checks signatures by the official Standard Webhooks library, as verify.py does.
//
// A line of standard input is {"secret", "headers", "body"} (the body in base64); the line that
// answers it is "valid", or "refused" and why.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// Where tests/servers installs it.
const installed = createRequire(new URL("../../.servers/node/", import.meta.url));
const { Webhook, WebhookVerificationError } = installed("standardwebhooks");

for await (const line of createInterface({ input: process.stdin })) {
  const check = JSON.parse(line);
  const body = Buffer.from(check.body, "base64");
  try {
    new Webhook(check.secret).verify(body, check.headers);
    console.log("valid");
  } catch (error) {
    if (!(error instanceof WebhookVerificationError)) throw error;
    console.log(`refused: ${error.message}`);
  }
}
