-- The first schema. Numbers are 64 bits, times are microseconds since 1970, keys are bytes.
-- `seq` numbers come from one sequence, so a version and a part never share one.

-- id (of the store), run, ceiling (of ids), sequence, default_placement, probe.
CREATE TABLE meta (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE placements (
    id INTEGER PRIMARY KEY,
    replicas INTEGER NOT NULL CHECK (replicas >= 1),
    min_replicas INTEGER NOT NULL CHECK (min_replicas BETWEEN 1 AND replicas),
    routing INTEGER NOT NULL,
    require_distinct BLOB NOT NULL,
    sealed INTEGER NOT NULL DEFAULT 0 CHECK (sealed IN (0, 1)),
    UNIQUE (replicas, min_replicas, routing, require_distinct, sealed)
) STRICT;

-- `objects`, `bytes` and `uploads` count current objects, their and the parts' bytes, and active
-- uploads. `imports`: files that are found below the bucket's name on a backend become its objects.
CREATE TABLE buckets (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    placement INTEGER NOT NULL REFERENCES placements (id),
    max_uploads INTEGER NOT NULL,
    quota INTEGER,
    declared INTEGER NOT NULL CHECK (declared IN (0, 1)),
    follows INTEGER NOT NULL CHECK (follows IN (0, 1)),
    imports INTEGER NOT NULL DEFAULT 0 CHECK (imports IN (0, 1)),
    objects INTEGER NOT NULL DEFAULT 0 CHECK (objects >= 0),
    bytes INTEGER NOT NULL DEFAULT 0 CHECK (bytes >= 0),
    uploads INTEGER NOT NULL DEFAULT 0 CHECK (uploads >= 0)
) STRICT;

-- The lifecycle rules of a bucket that has any. `seq` is another after every change of them.
CREATE TABLE lifecycles (
    bucket INTEGER PRIMARY KEY REFERENCES buckets (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    declared INTEGER NOT NULL CHECK (declared IN (0, 1)),
    rules BLOB NOT NULL
) STRICT;

-- No foreign key to `buckets`: it would want an index over all versions for nothing else.
CREATE TABLE versions (
    seq INTEGER PRIMARY KEY,
    bucket INTEGER NOT NULL,
    key BLOB NOT NULL,
    current INTEGER NOT NULL CHECK (current IN (0, 1)),
    marker INTEGER NOT NULL CHECK (marker IN (0, 1)),
    size INTEGER NOT NULL CHECK (size >= 0),
    md5 BLOB NOT NULL,
    modified INTEGER NOT NULL,
    parts INTEGER,
    tags INTEGER NOT NULL,
    info BLOB NOT NULL,
    pieces BLOB
) STRICT;
CREATE UNIQUE INDEX versions_current ON versions (bucket, key) WHERE current = 1;
CREATE UNIQUE INDEX versions_past ON versions (bucket, key, seq DESC) WHERE current = 0;

CREATE TABLE tags (
    version INTEGER NOT NULL REFERENCES versions (seq),
    ordinal INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (version, ordinal)
) STRICT, WITHOUT ROWID;

-- `owner` is the seq of a version or of a part.
CREATE TABLE entries (
    owner INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    part INTEGER NOT NULL,
    blob INTEGER NOT NULL,
    offset INTEGER NOT NULL CHECK (offset >= 0),
    length INTEGER NOT NULL CHECK (length > 0),
    PRIMARY KEY (owner, ordinal)
) STRICT, WITHOUT ROWID;

-- Until a commit takes the blob, `refs` is 0 and `hash` is zeros, so that the row keeps its length;
-- the hash of an imported blob is empty until its bytes have been read. `good` counts the good
-- replicas, `deficit` is what they miss to the placement (negative: more than wished), and `due`,
-- set while that is positive, is when the replicator may look at it: a time, or above `PARKED` the
-- number of the fleet's change that found no target for it. `stem` names the paths of the
-- replicas; while the version `born` exists, character 1 in it stands for that version's key.
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    size INTEGER NOT NULL CHECK (size > 0),
    refs INTEGER NOT NULL CHECK (refs >= 0),
    placement INTEGER NOT NULL REFERENCES placements (id),
    good INTEGER NOT NULL DEFAULT 0 CHECK (good >= 0),
    deficit INTEGER NOT NULL,
    due INTEGER,
    hash BLOB NOT NULL,
    born INTEGER,
    stem TEXT NOT NULL,
    groups BLOB
) STRICT;
-- The most endangered first.
CREATE INDEX blobs_due ON blobs (good, due, id) WHERE due IS NOT NULL;
CREATE INDEX blobs_surplus ON blobs (id) WHERE deficit < 0;
CREATE INDEX blobs_unhashed ON blobs (id) WHERE hash = x'';

-- `dead` is the replica's own write id while it is missing or damaged, else 0: two living replicas
-- of a blob on one backend cannot be. `checked` is when its bytes were last compared with the hash
-- (null: when they were written), or since when they cannot be read. `borrowed` is set on what was
-- imported and is not Larder's own yet: a number that changes when its owner changes the file.
CREATE TABLE replicas (
    write INTEGER PRIMARY KEY,
    blob INTEGER NOT NULL REFERENCES blobs (id),
    backend INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 6),
    form INTEGER NOT NULL CHECK (form BETWEEN 0 AND 2),
    own TEXT,
    bytes INTEGER,
    checked INTEGER,
    borrowed INTEGER,
    CHECK ((own IS NULL) = (form <> 2)),
    CHECK (borrowed IS NULL OR form = 2),
    CHECK ((dead = 0) = (state NOT IN (2, 3)))
) STRICT;
CREATE UNIQUE INDEX replicas_blob ON replicas (blob, backend, dead);
CREATE UNIQUE INDEX replicas_own ON replicas (backend, own) WHERE own IS NOT NULL;
CREATE INDEX replicas_writing ON replicas (write) WHERE state = 0;
CREATE INDEX replicas_leaving ON replicas (backend, write) WHERE state = 4;
CREATE INDEX replicas_unreadable ON replicas (backend, checked, write) WHERE state = 6;
-- Empty while all is well.
CREATE INDEX replicas_dead ON replicas (backend, state, write) WHERE dead <> 0;

-- `id` is the write id of the replica that it was. `due` is null once it is parked. What is `kept`
-- was only borrowed: it is never deleted, and stands here so that it is not imported again, unless
-- its owner changes it. `stamp` is set on what was imported: what `borrowed` was, or 0.
CREATE TABLE condemned (
    id INTEGER PRIMARY KEY,
    backend INTEGER NOT NULL,
    path TEXT NOT NULL,
    size INTEGER NOT NULL CHECK (size >= 0),
    reason INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    due INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    again INTEGER NOT NULL CHECK (again IN (0, 1)),
    kept INTEGER NOT NULL DEFAULT 0 CHECK (kept IN (0, 1)),
    error TEXT,
    stamp INTEGER,
    CHECK (kept = 0 OR due IS NULL AND stamp IS NOT NULL)
) STRICT;
CREATE INDEX condemned_due ON condemned (backend, due, seq) WHERE due IS NOT NULL;
-- Empty while all is well.
CREATE INDEX condemned_failed ON condemned (id) WHERE due IS NOT NULL AND error IS NOT NULL;
CREATE INDEX condemned_parked ON condemned (id) WHERE due IS NULL AND kept = 0;
CREATE INDEX condemned_imported ON condemned (backend, path) WHERE stamp IS NOT NULL;

-- `no` stands for the backend in all other tables: the ids of backends are long.
-- `rows` counts replicas and condemned paths. `state`: 0 in use, 1 draining, 2 absent for so long
-- that its replicas do not count, 3 removed. `absent_since`: since when it cannot be used, while
-- it cannot.
CREATE TABLE backends (
    no INTEGER PRIMARY KEY,
    id INTEGER NOT NULL UNIQUE,
    name TEXT NOT NULL,
    location TEXT NOT NULL,
    quota INTEGER,
    account TEXT,
    used INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0),
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    orphan INTEGER NOT NULL DEFAULT 0 CHECK (orphan >= 0),
    rows INTEGER NOT NULL DEFAULT 0 CHECK (rows >= 0),
    state INTEGER NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 3),
    absent_since INTEGER
) STRICT;

CREATE TABLE usage (
    backend INTEGER NOT NULL REFERENCES backends (no) ON DELETE CASCADE,
    period INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    class INTEGER NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (backend, period, kind, class)
) STRICT, WITHOUT ROWID;

-- `result` and `due` are set when it was completed; the row is then kept for repeated completes.
CREATE TABLE uploads (
    id INTEGER PRIMARY KEY,
    bucket INTEGER NOT NULL,
    key BLOB NOT NULL,
    created INTEGER NOT NULL,
    placement INTEGER NOT NULL REFERENCES placements (id),
    initiator TEXT NOT NULL,
    info BLOB NOT NULL,
    result BLOB,
    due INTEGER
) STRICT;
CREATE UNIQUE INDEX uploads_active ON uploads (bucket, key, id) WHERE result IS NULL;
CREATE INDEX uploads_due ON uploads (due) WHERE due IS NOT NULL;

CREATE TABLE parts (
    upload INTEGER NOT NULL REFERENCES uploads (id),
    number INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    size INTEGER NOT NULL CHECK (size >= 0),
    md5 BLOB NOT NULL,
    modified INTEGER NOT NULL,
    checksums BLOB NOT NULL,
    PRIMARY KEY (upload, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    id TEXT NOT NULL PRIMARY KEY,
    secret BLOB NOT NULL,
    create_buckets INTEGER NOT NULL CHECK (create_buckets IN (0, 1)),
    declared INTEGER NOT NULL CHECK (declared IN (0, 1))
) STRICT, WITHOUT ROWID;

-- `made` is set on what a key was given for having made a bucket: it goes with the bucket, and
-- the configuration, which does not know of it, leaves it alone.
CREATE TABLE grants (
    key TEXT NOT NULL REFERENCES keys (id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    bucket TEXT,
    prefix TEXT NOT NULL,
    actions INTEGER NOT NULL,
    made INTEGER REFERENCES buckets (id) ON DELETE CASCADE,
    PRIMARY KEY (key, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX grants_made ON grants (made) WHERE made IS NOT NULL;

-- Where background work stopped, and when it goes on.
CREATE TABLE jobs (
    name TEXT NOT NULL PRIMARY KEY,
    state BLOB,
    due INTEGER
) STRICT, WITHOUT ROWID;
