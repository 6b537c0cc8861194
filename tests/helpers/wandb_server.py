"""A W&B server in this process: knows runs, their rows and artifacts, and answers what the client asks for, no more."""

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENTITY = {"id": "entity", "name": "me"}
HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


class WandbServer(ThreadingHTTPServer):
    """runs: id -> {"names", "groups", "sweeps", ... as upserted, "rows": {line: row}, "summary"}; `uploads`: paths.

    artifacts: id -> {"name", "type", "digest", "by", "state", "aliases"}; uses: (run, artifact's name).
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.runs, self.artifacts, self.uses, self.uploads, self.unknown = {}, {}, [], [], []
        self.guard = threading.RLock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""

    def column(self, run, key):
        """The values of `key` in the order of the run's rows."""
        rows = self.runs[run]["rows"]
        return [rows[line][key] for line in sorted(rows) if key in rows[line]]

    def made_by(self, run):
        return {each["name"] for each in self.artifacts.values() if each["by"] == run and each["state"] == "COMMITTED"}

    def used_by(self, run):
        return {name for user, name in self.uses if user == run}


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.answer({})

    def do_PUT(self):
        self.body()
        self.server.uploads.append(self.path.removeprefix("/put/"))
        self.answer({})

    def do_POST(self):
        content = self.body()
        if self.path.endswith("/file_stream"):
            with self.server.guard:
                self.stream(self.path.split("/")[-2], json.loads(content).get("files") or {})
            self.answer({})
        elif self.path.endswith("/graphql"):
            asked = json.loads(content)
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
            with self.server.guard:
                found = getattr(self, name, None)
                if found is None:
                    self.server.unknown.append(name)
                self.answer({"data": found(asked.get("variables") or {}) if found else {"project": None}})
        else:  # telemetry
            self.answer({})

    def body(self):
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(content) if self.headers.get("content-encoding") == "gzip" else content

    def answer(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def stream(self, run, files):
        run = self.server.runs[run]
        for line, text in enumerate(files.get(HISTORY, {}).get("content", []), files.get(HISTORY, {}).get("offset", 0)):
            run["rows"][line] = json.loads(text)
        for text in files.get(SUMMARY, {}).get("content", []):
            run["summary"] = json.loads(text)

    # ---- runs ------------------------------------------------------------------------------------------------------

    def Viewer(self, asked):
        return {"viewer": {"id": "me", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": None}}

    def GetDefaultEntity(self, asked):
        return {"viewer": {"id": "me", "entity": "me"}}

    def Runs(self, asked):
        edges = [{"node": self.node(name), "cursor": name} for name in self.server.runs]
        runs = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "runCount": len(edges), "readOnly": False, "runs": runs}}

    def Run(self, asked):
        return {"project": {"internalId": "1", "run": self.node(asked["name"])}}

    def node(self, name):
        run = self.server.runs[name]
        node = {"id": name, "name": name, "displayName": name, "tags": [], "sweepName": None, "state": "finished"}
        node |= {"group": None, "jobType": None, "commit": None, "readOnly": False, "description": None, "notes": None}
        node |= {"createdAt": "2024-01-01T00:00:00Z", "heartbeatAt": "2024-01-01T00:00:00Z", "historyLineCount": 0}
        node |= {"user": {"name": "me", "username": "me"}, "projectId": "1", "config": run["config"]}
        return node | {"systemMetrics": "{}", "summaryMetrics": json.dumps(run["summary"]), "historyKeys": None}

    def ServerFeaturesQuery(self, asked):
        return {"serverInfo": {"features": []}}

    def UpsertBucket(self, asked):
        name = asked["name"]
        new = name not in self.server.runs
        run = self.server.runs.setdefault(name, {"rows": {}, "summary": {}, "config": "{}", "upserts": []})
        run["upserts"].append({key: value for key, value in asked.items() if value is not None})
        run["config"] = asked.get("config") or run["config"]
        bucket = {"id": name, "name": name, "displayName": name, "description": "", "config": run["config"]}
        bucket |= {"sweepName": None, "historyLineCount": len(run["rows"])}
        bucket["project"] = {"id": "project", "name": asked["project"], "entity": ENTITY}
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def RunResumeStatus(self, asked):
        run = self.server.runs.get(asked["name"])
        bucket = None
        if run is not None:
            rows = run["rows"]
            tail = [json.dumps(rows[max(rows)])] if rows else []
            bucket = {"id": asked["name"], "name": asked["name"], "displayName": asked["name"]}
            bucket |= {"summaryMetrics": json.dumps(run["summary"]), "historyTail": json.dumps(tail)}
            bucket |= {"historyLineCount": len(rows), "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"}
            bucket |= {"config": run["config"], "tags": [], "notes": None, "wandbConfig": '{"t": 1}'}
        return {"model": {"id": "project", "name": asked["project"], "entity": ENTITY, "bucket": bucket}}

    def CreateRunFiles(self, asked):
        files = [{"name": name, "uploadUrl": self.place(asked["run"], name)} for name in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def place(self, *parts):
        return "/".join((self.server.url, "put", *parts))

    # ---- artifacts -------------------------------------------------------------------------------------------------

    def CreateArtifact(self, asked):
        asked = asked["input"]
        name, digest = asked["artifactCollectionName"], asked["digest"]
        known = [each for each in self.server.artifacts.values() if (each["name"], each["digest"]) == (name, digest)]
        if known:
            (artifact,) = known
        else:
            artifact = {"id": f"artifact{len(self.server.artifacts)}", "name": name, "digest": digest, "aliases": set()}
            artifact |= {"type": asked["artifactTypeName"], "by": asked["runName"], "state": "PENDING"}
            artifact["metadata"] = json.loads(asked["metadata"] or "{}")
            self.server.artifacts[artifact["id"]] = artifact
        artifact["aliases"] |= {alias["alias"] for alias in asked["aliases"]}
        sequence = {"id": name, "name": name, "latestArtifact": None}
        about = {"__typename": "Artifact", "versionIndex": 0, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": about | {key: artifact[key] for key in ("id", "state", "digest")}}}

    def CreateArtifactManifest(self, asked):
        file = {"id": "file", "uploadUrl": self.place("manifest", asked["artifactID"]), "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": asked["artifactID"], "file": file}}}

    def CreateArtifactFiles(self, asked):
        nodes = []
        for file in asked["input"]["artifactFiles"]:
            number, name = file["artifactID"], file["name"]
            url = self.place("artifact", self.server.artifacts[number]["name"], name)
            node = {"storagePath": name, "uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None}
            nodes.append({"node": node | {"artifact": {"id": number}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def CommitArtifact(self, asked):
        artifact = self.server.artifacts[asked["artifactID"]]
        artifact["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact["id"], "digest": artifact["digest"]}}}

    def UseArtifact(self, asked):
        asked = asked.get("input", asked)  # by object, or by name
        self.server.uses.append((asked["runName"], self.server.artifacts[asked["artifactID"]]["name"]))
        return {"useArtifact": {"artifact": {"id": asked["artifactID"]}}}

    def ArtifactMembershipByName(self, asked):
        name, _, alias = asked["name"].partition(":")
        for artifact in self.server.artifacts.values():
            if artifact["name"] == name and alias in artifact["aliases"] and artifact["state"] == "COMMITTED":
                member = {"__typename": "ArtifactCollectionMembership", "id": "member", "versionIndex": 0}
                member |= {"createdAt": "2024-01-01T00:00:00Z", "aliases": []}
                member |= {"artifactCollection": self.collection(name), "artifact": self.described(artifact)}
                return {"project": {"artifactCollectionMembership": member}}
        return {"project": {"artifactCollectionMembership": None}}

    def ArtifactByID(self, asked):
        return {"artifact": self.described(self.server.artifacts[asked["id"]])}

    def collection(self, name):
        project = {"id": "project", "internalId": "project", "name": "relinearize", "entity": ENTITY}
        return {"__typename": "ArtifactSequence", "name": name, "project": project}

    def described(self, artifact):
        about = {"__typename": "Artifact", "versionIndex": 0, "description": None, "ttlDurationSeconds": 0}
        about |= {key: artifact[key] for key in ("id", "state", "digest")}
        about |= {"artifactSequence": self.collection(artifact["name"]), "artifactType": {"name": artifact["type"]}}
        about |= {"metadata": "{}", "ttlIsInherited": True, "tags": [], "historyStep": None, "size": 1, "fileCount": 1}
        return about | {"commitHash": "", "createdAt": "2024-01-01T00:00:00Z", "updatedAt": None, "aliases": []}
