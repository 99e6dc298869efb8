-- layer_touched(layer, layer_b, status): of the weights of a layer, as pruning_diff has them, whether a shape changed,
-- or a weight was added or removed; NULL of a layer that only one model has.
CREATE MACRO layer_touched(layer, layer_b, status) AS (
    CASE WHEN (layer IS NULL) = (layer_b IS NULL)
         THEN bool_or(status IN ('pruned', 'grown', 'reshaped', 'added', 'removed')) IS TRUE END
);

COMMENT ON MACRO layer_touched IS 'An aggregate: whether anything in a layer has another shape, was added or removed.';
