#!/usr/bin/env python3
"""clients.py - runs test/clients (node), the acceptance by clients that others wrote and by a browser, as claims of its own.

Their packages are installed once into test/clients/node_modules, at the versions of package-lock.json. Skipped, with the
reason, where node 20 or npm is missing, where the packages cannot be fetched, and under a sanitizer.
"""

import os
import re
import shutil
import subprocess

from harness import BIN, ROOT, Skip, claim, environment, main, sanitized

HERE = os.path.join(ROOT, "test", "clients")


def node():
    if sanitized():
        raise Skip("clients run against the release build")
    said = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout if shutil.which("node") else ""
    if int((re.match(r"v(\d+)", said) or [0, 0])[1]) < 20 or not shutil.which("npm"):
        raise Skip("these clients need node 20 and npm")
    if not os.path.exists(os.path.join(HERE, "node_modules", "openai")):
        p = subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, capture_output=True, text=True, timeout=300)
        if p.returncode:
            raise Skip("npm could not fetch the clients' packages: " + p.stderr.strip().split("\n")[-1][:200])


def run(name):
    node()
    p = subprocess.run(["node", "--test", "--test-reporter=tap", name], cwd=HERE, env=environment(PUMICE=BIN), capture_output=True,
                       text=True, timeout=500)
    wrong = re.findall(r"^not ok \d+ - (.*)$", p.stdout, re.M)
    held = [line for line in re.findall(r"^ok \d+ - (.*)$", p.stdout, re.M)]
    if held and not wrong and all("# SKIP" in line for line in held):
        raise Skip(held[0].split("# SKIP")[1].strip())
    assert p.returncode == 0 and held and not wrong, "; ".join(wrong) + "\n" + p.stdout[-2000:]


@claim
def the_openai_client_accepts_the_server():
    run("openai.test.js")


@claim
def the_ai_sdk_langchain_and_hugging_face_accept_the_server():
    run("others.test.js")


@claim
def the_chat_page_works_in_a_browser():
    run("page.test.js")


if __name__ == "__main__":
    main()
