-- surviving_axes(a, b): of the rows ('out') and the columns ('in') of every matrix that a and b have, which of a's each
-- of b's is, in one row: what surviving_channels spells out.
--   method     what tells: fingerprint, position, residual, or that of an alignment (see surviving_channels); NULL:
--              nothing does
--   found      how many of b's channels are a's as they were, of an axis of which they were looked for; else NULL
--   channels   for each channel of b that of a, NULL where it is none or nobody knows; NULL altogether where both have
--              the same ones at the same places
--   is_open    whether channels of a that are not among them may be in b all the same; reason says why
-- Where a vocabulary has grown, new tokens are its last: the rows before them are at their own index, unless one that a
-- has once is elsewhere in b, in the embedding or in lm_head.
-- Channels of an axis that was not cut are looked for elsewhere only if all of them are there, as their sums of hashes
-- tell.
CREATE MACRO surviving_axes(a, b) AS TABLE
WITH axes AS MATERIALIZED (
    SELECT row_number() OVER () AS id, x.* FROM axis_pairs(a, b) x WHERE x.n_a IS NOT NULL AND x.n_b IS NOT NULL
),
sums AS (
    SELECT c.model, c.matrix, c.axis, sum(hash(c.fingerprint)) AS total
    FROM channels c WHERE c.model IN (a, b) GROUP BY c.model, c.matrix, c.axis
),
searched AS MATERIALIZED (
    SELECT x.id, x.weight_a, x.weight_b, x.axis
    FROM axes x
    LEFT JOIN sums k ON k.model = a AND k.matrix = x.weight_a AND k.axis = x.axis
    LEFT JOIN sums n ON n.model = b AND n.matrix = x.weight_b AND n.axis = x.axis
    WHERE x.is_comparable AND NOT x.is_equal AND (x.n_a <> x.n_b OR k.total = n.total)
),
copies_a AS (
    SELECT s.id, c.channel, c.fingerprint,
           row_number() OVER (PARTITION BY s.id, c.fingerprint ORDER BY c.channel) AS copy,
           count(*) OVER (PARTITION BY s.id, c.fingerprint) AS copies
    FROM searched s JOIN channels c ON c.model = a AND c.matrix = s.weight_a AND c.axis = s.axis
),
copies_b AS (
    SELECT s.id, c.channel, c.fingerprint,
           row_number() OVER (PARTITION BY s.id, c.fingerprint ORDER BY c.channel) AS copy
    FROM searched s JOIN channels c ON c.model = b AND c.matrix = s.weight_b AND c.axis = s.axis
),
found AS MATERIALIZED (
    SELECT y.id, count(x.channel) AS found, list(x.channel ORDER BY y.channel) AS channels,
           bool_or(x.channel <> y.channel AND x.copies = 1) IS TRUE AS is_moved
    FROM copies_b y LEFT JOIN copies_a x ON x.id = y.id AND x.fingerprint = y.fingerprint AND x.copy = y.copy
    GROUP BY y.id
),
-- vocabularies of which some matrix tells that tokens were put elsewhere than at the end
reordered AS (
    SELECT DISTINCT x.component, x.n_a, x.n_b
    FROM axes x JOIN found f ON f.id = x.id
    WHERE x.axis = 'out' AND x.role IN ('embed_tokens', 'lm_head') AND f.is_moved
),
-- an alignment without any channel only says why there is none
aligned AS (
    SELECT l.weight_b, l.axis, list(l.channel_a ORDER BY l.channel_b) AS channels, any_value(l.method) AS method,
           count(l.channel_a) > 0 AS is_found, any_value(l.reason) AS reason
    FROM alignments l
    WHERE l.model_a = a AND l.model_b = b
    GROUP BY l.weight_b, l.axis
),
told AS MATERIALIZED (
    SELECT x.*, f.channels AS seen, f.found, l.channels AS aligned, l.method AS how, l.reason,
           CASE WHEN x.is_equal THEN 'equal' WHEN f.found = least(x.n_a, x.n_b) THEN 'found'
                WHEN x.n_a = x.n_b THEN 'uncut'
                WHEN x.n_b > x.n_a AND x.axis = 'out' AND x.role IN ('embed_tokens', 'lm_head')
                     AND r.component IS NULL THEN 'appended'
                WHEN l.is_found THEN 'aligned' WHEN f.found > 0 THEN 'some' END AS by
    FROM axes x
    LEFT JOIN found f ON f.id = x.id
    LEFT JOIN reordered r ON r.component = x.component AND r.n_a = x.n_a AND r.n_b = x.n_b
    LEFT JOIN aligned l ON l.weight_b = x.weight_b AND l.axis = x.axis
),
-- of each component, the hidden dimensions that are left, by the matrix that has them on an axis of its own
hidden AS (
    SELECT t.component, t.n_a, t.n_b, CASE t.by WHEN 'found' THEN t.seen ELSE t.aligned END AS channels,
           CASE WHEN t.by = 'aligned' AND ends_with(t.how, '(approximate)') THEN 'residual (approximate)'
                ELSE 'residual' END AS method
    FROM told t
    WHERE t.role IN ('embed_tokens', 'lm_head') AND t.axis = 'in' AND t.n_a > t.n_b AND t.by IN ('found', 'aligned')
    QUALIFY row_number() OVER (PARTITION BY t.component ORDER BY t.role) = 1
),
mapped AS (
    SELECT t.*,
           CASE WHEN t.by IN ('equal', 'found', 'some') THEN 'fingerprint'
                WHEN t.by IN ('uncut', 'appended') THEN 'position'
                WHEN t.by = 'aligned' THEN t.how WHEN t.by IS NULL THEN h.method END AS method,
           CASE WHEN t.by IN ('found', 'some') THEN t.seen WHEN t.by = 'appended' THEN list_resize(range(t.n_a), t.n_b)
                WHEN t.by = 'aligned' THEN t.aligned
                WHEN t.by IS NULL THEN h.channels END AS channels
    FROM told t LEFT JOIN hidden h
      ON h.component = t.component AND h.n_a = t.n_a AND h.n_b = t.n_b
     AND list_contains(CASE t.axis WHEN 'out' THEN ['o_proj', 'down_proj']
             ELSE ['q_proj', 'k_proj', 'v_proj', 'gate_proj', 'up_proj', 'router', 'lm_head'] END, t.role)
)
SELECT m.model_a, m.model_b, m.component, m.layer, m.role, m.expert, m.weight_a, m.weight_b, m.axis, m.n_a, m.n_b,
       m.head_dim, m.method, m.found, m.channels,
       m.method IS NULL OR (m.by = 'some' OR m.by = 'aligned' AND list_count(m.channels) < len(m.channels)) IS TRUE
           AS is_open,
       CASE WHEN NOT is_open THEN NULL WHEN m.reason IS NOT NULL THEN m.reason
            WHEN m.by = 'some' THEN format('{} of the {} channels of b were altered', m.n_b - m.found, m.n_b)
            WHEN m.is_comparable THEN 'no channel of b is in a as it was: they were altered, or the catalog has none'
            ELSE 'both axes changed' END AS reason
FROM mapped m;

COMMENT ON MACRO TABLE surviving_axes IS 'Which channels of model a the channels of b''s matrices are, as lists.';
