"""The story of a bill, checked number by number. Only the standard library; money is `Decimal` throughout."""

import datetime
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from urllib.parse import urlsplit

MAYFLY, MINILM, HANDLER = sys.argv[1:4]
SENTENCE = "how do I reset my password"
TOKENS = 8  # of that sentence, with the two special ones
MORNING, AFTERNOON = Decimal("1.00"), Decimal("2.00")  # per 1,000 input tokens


class Server:
    """The real process, and the command line against it."""

    def __init__(self, folder):
        self.folder, self.process, self.environment = folder, None, dict(os.environ)
        self.start()

    def start(self):
        # The story reads costs in each answer's head: on a busy machine a slower answer would have them in its trailers.
        patient = dict(self.environment, MAYFLY_CALLS__SHORT_ANSWER_WAIT_MS="5000")
        self.process = subprocess.Popen(
            [MAYFLY, "serve", "--json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
             "--data-dir", os.path.join(self.folder, "data")],
            env=patient, stdout=subprocess.PIPE, stderr=open(os.path.join(self.folder, "log"), "ab"))
        ready = json.loads(self.process.stdout.readline())
        self.data = urlsplit(ready["data"]).netloc
        self.environment["MAYFLY_URL"] = ready["admin"]
        if ready.get("admin_key"):
            self.environment["MAYFLY_KEY"] = ready["admin_key"]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def cli(self, *arguments, project=None):
        """`mayfly ARGUMENTS --json`, shown and answered."""
        print("  $ mayfly", *arguments, *(["--project", project] if project else []))
        environment = dict(self.environment, **({"MAYFLY_PROJECT": project} if project else {}))
        done = subprocess.run([MAYFLY, *arguments, "--json"], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"mayfly {' '.join(arguments)}: {done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def call(self, path, body, key):
        """A whole answer: status, headers, body."""
        connection = http.client.HTTPConnection(self.data, timeout=60)
        connection.request("POST", path, body, {"authorization": f"Bearer {key}", "content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def stream(self, path, body, key):
        """An answer whose body is still to be read."""
        connection = http.client.HTTPConnection(self.data, timeout=60)
        connection.request("POST", path, body, {"authorization": f"Bearer {key}"})
        return connection, connection.getresponse()

    def request(self, id):
        """The ledger's word on one call, once it has ended."""
        for _ in range(200):
            connection = http.client.HTTPConnection(urlsplit(self.environment["MAYFLY_URL"]).netloc)
            connection.request("GET", f"/api/v1/requests/{id}", headers={"authorization": f"Bearer {self.environment['MAYFLY_KEY']}"})
            answer = connection.getresponse()
            record = json.loads(answer.read())
            if answer.status == 200 and record["ended"]:
                return record
            time.sleep(0.05)
        sys.exit(f"call {id} never ended: {record}")


def step(text):
    print(f"\n== {text}")


def expect(what, got, wanted):
    print(f"  {what}: {got}")
    if got != wanted:
        sys.exit(f"expected {wanted}")


def embed(server, project, key):
    body = json.dumps({"model": "embed", "input": SENTENCE})
    return server.call(f"/d/{project}/embed/v1/embeddings", body, key)


def cost_of(server, tenant):
    groups = server.cli("usage", "--by", "tenant", "--tenant", tenant)["data"]
    return Decimal(groups[0]["cost"]) if groups else Decimal(0)


def main(folder):
    server = Server(folder)
    try:
        story(server)
    finally:
        server.process.kill()


def story(server):
    step("Two tenants, each with a project and a key; one model, two deployments")
    server.cli("models", "add", "minilm", MINILM)
    keys = {}
    for tenant in ("acme", "birch"):
        project = f"{tenant}-app"
        server.cli("tenants", "create", tenant)
        server.cli("projects", "create", project, "--tenant", tenant)
        keys[tenant] = server.cli("keys", "create", "--label", "story", project=project)["secret"]
        server.cli("deploy", "builtin:embeddings", "--name", "embed", "--model", "minilm", project=project)
        server.cli("deploy", HANDLER, "--name", "lines", "--model", "minilm", project=project)

    step("A price for the morning, and one from noon (in this story four seconds from now)")
    noon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=4)
    server.cli("prices", "set", "--model", "minilm", "--meter", "input_tokens", "--amount", str(MORNING), "--per", "1000")
    server.cli("prices", "set", "--model", "minilm", "--meter", "input_tokens", "--amount", str(AFTERNOON), "--per", "1000",
               "--from", noon.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))

    step("Acme calls three times in the morning, and twice after noon")
    for _ in range(3):
        status, headers, _ = embed(server, "acme-app", keys["acme"])
        expect("status, tokens, cost", (status, headers["x-mayfly-usage-input-tokens"], headers["x-mayfly-cost"]),
               (200, str(TOKENS), "0.008"))
    if datetime.datetime.now(datetime.timezone.utc) >= noon:
        sys.exit("the morning was too short on this machine")
    time.sleep(max(0, (noon - datetime.datetime.now(datetime.timezone.utc)).total_seconds()) + 0.05)
    for _ in range(2):
        status, headers, _ = embed(server, "acme-app", keys["acme"])
        expect("status, cost", (status, headers["x-mayfly-cost"]), (200, "0.016"))
    acme = 3 * TOKENS * MORNING / 1000 + 2 * TOKENS * AFTERNOON / 1000
    expect("acme's bill so far", cost_of(server, "acme"), acme)

    step("Birch may spend 0.05 a month: three calls of 0.016 fit, the fourth does not")
    server.cli("limits", "set", "--tenant", "birch", "--spend", "0.05/month")
    for _ in range(3):
        expect("status", embed(server, "birch-app", keys["birch"])[0], 200)
    status, headers, body = embed(server, "birch-app", keys["birch"])
    expect("status, x-should-retry, code", (status, headers["x-should-retry"], json.loads(body)["error"]["code"]),
           (402, "false", "insufficient_quota"))
    print("  ", json.loads(body)["error"]["message"])
    birch = 3 * TOKENS * AFTERNOON / 1000
    expect("birch's bill", cost_of(server, "birch"), birch)

    step("Acme streams, and leaves after three lines")
    lines = "\n".join([SENTENCE] * 40)
    connection, answer = server.stream("/d/acme-app/lines/?ms=100", lines, keys["acme"])
    id = answer.headers["x-request-id"]
    received = [answer.readline() for _ in range(3)]
    answer.close()
    connection.close()
    record = server.request(id)
    billed = record["usage"]["input_tokens"]
    print(f"  outcome {record['outcome']}, received {len(received)} lines, billed {billed} tokens")
    if record["outcome"] != "client_left" or not 3 * TOKENS <= billed <= 6 * TOKENS:
        sys.exit("the work should have stopped within a few lines, and be billed up to there")
    acme += billed * AFTERNOON / 1000
    expect("acme's bill", cost_of(server, "acme"), acme)

    step("Acme streams again, and the server is killed with SIGKILL")
    connection, answer = server.stream("/d/acme-app/lines/?ms=100", lines, keys["acme"])
    id = answer.headers["x-request-id"]
    received = [answer.readline() for _ in range(4)]
    server.kill()
    try:
        while line := answer.readline():
            received.append(line)
    except (http.client.HTTPException, OSError):
        pass
    received = [line for line in received if line]
    server.start()
    record = server.request(id)
    billed = record["usage"]["input_tokens"]
    print(f"  outcome {record['outcome']}, received {len(received)} lines, billed {billed} tokens")
    if record["outcome"] != "host_crash" or not len(received) * TOKENS <= billed <= (len(received) + 1) * TOKENS:
        sys.exit("billed should be what was received, and at most one line more")
    acme += billed * AFTERNOON / 1000
    expect("acme's bill", cost_of(server, "acme"), acme)
    expect("birch's bill, over the kill", cost_of(server, "birch"), birch)
    expect("birch is still refused", embed(server, "birch-app", keys["birch"])[0], 402)

    step("The ledger, walked from its first row to its last")
    report = server.cli("ledger", "verify")
    expect("problems", report["problems"], [])
    expect("open calls", report["open"], 0)
    expect("all bills together", cost_of(server, "acme") + cost_of(server, "birch"), acme + birch)
    server.stop()
    print("\nEvery number is as it should be.")


with tempfile.TemporaryDirectory() as folder:
    main(folder)
