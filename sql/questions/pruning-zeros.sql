-- title: Zeros before and after, and whether they are 2:4 or 4:8
-- why: Unstructured pruning changes no shape, so what it did is seen only in zeros and in groups of neighbours.
-- parameter: a = %: the original, by name or LIKE pattern; of several the one of most parameters
-- parameter: b = %: the pruned one; of several the one of fewest parameters
-- example: shardscan ask pruning-zeros -p a=SmolLM2-135M -p b=masked --store scans
SELECT *
FROM unstructured_diff(original_model($a), pruned_model($b))
ORDER BY component, layer NULLS FIRST, layer_b, role;
