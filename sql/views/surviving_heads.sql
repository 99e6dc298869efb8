-- surviving_heads(a, b): what became of every attention head of a (of k and v: KV head), by its channels.
--   status   kept: all of its channels are, side by side and in order; dropped: none is; broken: some are, or they lie
--            apart; unknown: of one of its channels nothing is known
--   head_b   NULL also where it was kept but lies across two heads of b, since one before it was broken
--   method   what tells it: see surviving_channels
CREATE MACRO surviving_heads(a, b) AS TABLE
WITH heads AS (
    SELECT s.model_a, s.model_b, s.component, s.layer, s.role, s.expert, s.weight_a, s.weight_b, s.head_a,
           CASE WHEN min(s.head_b) = max(s.head_b) THEN min(s.head_b) END AS head_b,
           count(*) AS channels, count(*) FILTER (s.status = 'kept') AS kept_channels,
           bool_or(s.status = 'unknown') AS is_unknown,
           min(s.channel_b - s.channel_a) = max(s.channel_b - s.channel_a) AS is_in_order,
           any_value(s.method ORDER BY s.channel_a) AS method
    FROM surviving_channels(a, b) s
    WHERE s.head_a IS NOT NULL
    GROUP BY s.model_a, s.model_b, s.component, s.layer, s.role, s.expert, s.weight_a, s.weight_b, s.head_a
)
SELECT h.model_a, h.model_b, h.component, h.layer, h.role, h.expert, h.weight_a, h.weight_b, h.head_a,
       CASE WHEN h.kept_channels = h.channels AND h.is_in_order THEN h.head_b END AS head_b,
       CASE WHEN h.is_unknown THEN 'unknown' WHEN h.kept_channels = 0 THEN 'dropped'
            WHEN h.kept_channels = h.channels AND h.is_in_order THEN 'kept'
            ELSE 'broken' END AS status,
       h.method, h.channels, h.kept_channels
FROM heads h;

COMMENT ON MACRO TABLE surviving_heads IS 'Which attention heads of model a are in model b: kept, dropped or broken.';
