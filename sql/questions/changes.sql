-- title: How much the values of two models differ, layer by layer
-- why: Tells a light fine-tuning from a heavy one and a LoRA from neither, once `shardscan diff --values` has compared.
-- parameter: a = %: LIKE pattern of the original's name
-- parameter: b = %: LIKE pattern of the other's name
-- parameter: role = %: LIKE pattern of roles
-- example: shardscan ask changes -p a=base -p b=tuned -p role=q_proj --store scans
SELECT model_a, model_b, component, layer, role, expert, part, status, values, added,
       changed / nullif(values, 0) AS changed, newly_zero / nullif(values, 0) AS newly_zero,
       relative_change, cosine, max_change, change_rank,
       change_stable_rank, weight_b
FROM tensor_diffs
WHERE model_a LIKE $a AND model_b LIKE $b AND role LIKE $role
ORDER BY model_a, model_b, component, layer NULLS FIRST, role, expert NULLS FIRST, part, weight_b;
