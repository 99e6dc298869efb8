-- faults: the shapes of two models that are impossible, one sentence a row, with the layer.
SELECT DISTINCT coalesce('layer ' || layer || ': ', '') || detail AS fault, layer
FROM shape_faults($a, $b)
ORDER BY layer, fault;
