-- existing_model(name): the name, if there is such a model; else an error that says which there are.
CREATE MACRO existing_model(name) AS (
    SELECT CASE WHEN bool_or(m.model = name) THEN name
                ELSE error('There is no model ''' || coalesce(name, 'NULL') || ''' here: there are '
                           || coalesce(string_agg('''' || m.model || '''', ', ' ORDER BY m.model), 'none') || '.')
           END
    FROM models m
);

COMMENT ON MACRO existing_model IS 'The name of a model that there is; an error for any other.';
