-- surviving_channels(a, b): where every row ('out') and column ('in') of a's matrices is in b: one row for each channel
-- of a, and for each of b that is none of a's.
--   status    kept; dropped; added: only b has it; unknown: nothing tells, and reason says why
--   method    what tells it:
--     fingerprint  all channels of the axis that could be there are found in the other model to the last bit, equal
--                  ones k-th copy to k-th; rows can be found where no columns were cut, and the other way round
--     position     the axis was not cut, so a channel is at its own index; so are tokens where others were added
--     residual     both axes were cut; these hidden dimensions are those that embed_tokens (or else lm_head) kept
--     restricted fingerprint   both axes were cut, and the original's channels have these fingerprints over what is
--                  left of the other one (`shardscan diff`)
--     as gate_proj             another matrix of the module tells, which has the same channels (`shardscan diff`)
--     statistics (approximate) channels were altered, and aligned in their order by their statistics; what is dropped
--                  then is as approximate as what is kept. residual (approximate) follows from such an embedding
-- Where some of b's channels were altered, those that are found are kept, and of the others of a nothing is known.
-- head_a, head_b are of the axis that heads divide; a head of b is as long as one of a. See surviving_axes.
CREATE MACRO surviving_channels(a, b) AS TABLE
WITH axes AS MATERIALIZED (
    SELECT row_number() OVER () AS id, x.* FROM surviving_axes(a, b) x
),
alone AS MATERIALIZED (
    SELECT row_number() OVER () AS id, x.* FROM axis_pairs(a, b) x
    WHERE x.weight_a IS NULL AND x.n_b IS NOT NULL OR x.weight_b IS NULL AND x.n_a IS NOT NULL
),
listed AS (
    SELECT x.id, unnest(x.channels) AS channel_a, unnest(range(len(x.channels))) AS channel_b
    FROM axes x WHERE x.channels IS NOT NULL
),
left_over AS (
    SELECT r.id, r.channel AS channel_a
    FROM (SELECT x.id, unnest(range(x.n_a)) AS channel
          FROM axes x WHERE x.channels IS NOT NULL OR x.method IS NULL) r
    ANTI JOIN listed t ON t.id = r.id AND t.channel_a = r.channel
),
every AS (
    SELECT x.id, unnest(range(x.n_a)) AS channel_a, channel_a AS channel_b, 'kept' AS status
    FROM axes x WHERE x.channels IS NULL AND x.method IS NOT NULL
    UNION ALL
    SELECT t.id, t.channel_a, t.channel_b, 'kept' FROM listed t WHERE t.channel_a IS NOT NULL
    UNION ALL
    SELECT l.id, l.channel_a, NULL, CASE WHEN x.is_open THEN 'unknown' ELSE 'dropped' END
    FROM left_over l JOIN axes x ON x.id = l.id
    UNION ALL
    SELECT t.id, NULL, t.channel_b, 'added'
    FROM listed t JOIN axes x ON x.id = t.id WHERE t.channel_a IS NULL AND NOT x.is_open
)
SELECT x.model_a, x.model_b, x.component, x.layer, x.role, x.expert, x.weight_a, x.weight_b, x.axis,
       CAST(e.channel_a AS INTEGER) AS channel_a, CAST(e.channel_b AS INTEGER) AS channel_b,
       CAST(e.channel_a // x.head_dim AS INTEGER) AS head_a, CAST(e.channel_b // x.head_dim AS INTEGER) AS head_b,
       CAST(x.head_dim AS INTEGER) AS head_dim, e.status,
       CASE WHEN e.status IN ('kept', 'dropped') THEN x.method END AS method,
       CASE WHEN e.status = 'unknown' THEN x.reason END AS reason
FROM every e JOIN axes x ON x.id = e.id
UNION ALL
SELECT x.model_a, x.model_b, x.component, x.layer, x.role, x.expert, x.weight_a, x.weight_b, x.axis,
       CASE WHEN x.weight_b IS NULL THEN CAST(r.channel AS INTEGER) END,
       CASE WHEN x.weight_a IS NULL THEN CAST(r.channel AS INTEGER) END,
       CASE WHEN x.weight_b IS NULL THEN CAST(r.channel // x.head_dim AS INTEGER) END, NULL,
       CAST(x.head_dim AS INTEGER), CASE WHEN x.weight_b IS NULL THEN 'dropped' ELSE 'added' END, NULL, NULL
FROM alone x JOIN (SELECT y.id, unnest(range(coalesce(y.n_a, y.n_b))) AS channel FROM alone y) r ON r.id = x.id;

COMMENT ON MACRO TABLE surviving_channels IS 'Which rows and columns of model a are in model b, and where.';
