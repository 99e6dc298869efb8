-- model_diff(a, b): what became of every role of a in b, in shapes and in values: what `shardscan diff` prints.
--   layers … consistent   see pruning_modules
--   changed               values that differ / values compared
--   newly_zero            values that are zero in b only / values compared
--   relative_change       ‖a − b‖ / ‖a‖ over all weights of the role (Frobenius norms)
--   cosine                ⟨a, b⟩ / (‖a‖·‖b‖) likewise; 1 where nothing changed
--   max_change            max |a − b|
--   change_rank           largest of a weight's, where it was asked for (tensor_diffs)
-- Values are those of weights that `shardscan diff --values` compared, on the channels that b has left; else NULL. A
-- figure that one of those weights lacks, such as a norm whose squares were lost, the role lacks too.
CREATE MACRO model_diff(a, b) AS TABLE
WITH compared AS (
    SELECT d.component, d.role, sum(d.values) AS values, sum(d.changed) AS changed, sum(d.newly_zero) AS newly_zero,
           CASE WHEN count(d.norm_a) = count(*) THEN sqrt(sum(d.norm_a ** 2)) END AS norm_a,
           CASE WHEN count(d.norm_b) = count(*) THEN sqrt(sum(d.norm_b ** 2)) END AS norm_b,
           CASE WHEN count(d.norm_change) = count(*) THEN sqrt(sum(d.norm_change ** 2)) END AS norm_change,
           CASE WHEN bool_and(d.cosine IS NOT NULL OR d.norm_a * d.norm_b IS NOT DISTINCT FROM 0)
                THEN coalesce(sum(d.cosine * d.norm_a * d.norm_b), 0) END AS product,
           CASE WHEN count(d.max_change) = count(*) THEN max(d.max_change) END AS max_change,
           max(d.change_rank) AS change_rank
    FROM tensor_diffs d
    WHERE d.model_a = a AND d.model_b = b AND d.values > 0 AND d.changed IS NOT NULL
    GROUP BY d.component, d.role
)
SELECT m.model_a, m.model_b, m.component, m.role, m.layers, m.touched_layers,
       m.parameters_a, m.parameters_b, m.retention, m.touched_retention, m.consistent,
       c.changed / c.values AS changed, c.newly_zero / c.values AS newly_zero,
       c.norm_change / nullif(c.norm_a, 0) AS relative_change,
       CASE WHEN c.norm_a * c.norm_b > 0 AND c.max_change = 0 THEN 1
            WHEN c.norm_a * c.norm_b > 0 THEN greatest(-1, least(1, c.product / (c.norm_a * c.norm_b))) END AS cosine,
       c.max_change, c.change_rank
FROM pruning_modules(a, b) m LEFT JOIN compared c ON c.component = m.component AND c.role = m.role;

COMMENT ON MACRO TABLE model_diff IS 'What became of every role of model a in model b, in shapes and in values.';
