-- compared_weights: how many weights of two models were compared by value, now or before, in one row.
SELECT count(*) AS compared
FROM tensor_diffs
WHERE model_a = $a AND model_b = $b AND changed IS NOT NULL;
