-- models: the models of a store and where they were scanned, one row each; the rows that `shardscan catalog` prints.
SELECT model, architecture, parameters, bytes, source
FROM models;
