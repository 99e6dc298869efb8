-- summary: what became of a model in another, in one row; what the sentences of `shardscan diff` are made of.
FROM pruning_summary($a, $b);
