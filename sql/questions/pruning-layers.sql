-- title: Parameters before and after pruning, layer by layer
-- why: Shows which layers were pruned and how far, and where shapes came out that cannot work together.
-- parameter: a = %: the original, by name or LIKE pattern; of several the one of most parameters
-- parameter: b = %: the pruned one; of several the one of fewest parameters
-- example: shardscan ask pruning-layers -p a=Llama-3-8B -p b=pruned -o layers.csv
SELECT model_a, model_b, component, layer, layer_b, parameters_a, parameters_b, retention, structured_sparsity, touched,
       is_copy, array_to_string(faults, '; ') AS faults
FROM pruning_layers(original_model($a), pruned_model($b))
ORDER BY component, layer NULLS FIRST, layer_b NULLS FIRST;
