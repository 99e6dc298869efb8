-- title: What pruning did, in one row
-- why: Says whether a pruned model is as small as it was meant to be, consistent and possible, before anybody loads it.
-- parameter: a = %: the original, by name or LIKE pattern; of several the one of most parameters
-- parameter: b = %: the pruned one; of several the one of fewest parameters
-- example: shardscan ask pruning -p a=Llama-3-8B -p b=pruned --format json
FROM pruning_summary(original_model($a), pruned_model($b))
ORDER BY model_a, model_b;
