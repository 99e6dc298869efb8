-- models: the names of the models of a store.
SELECT model
FROM models
ORDER BY model;
