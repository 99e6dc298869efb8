-- original_model(pattern): the model of that name; else, of those whose names match the LIKE pattern, the one of most
-- parameters (of several the first by name); an error where none matches. What a question compares if nobody says
-- which. The _ of a name would match other names too, so an equal one goes first.
CREATE MACRO original_model(pattern) AS (
    SELECT coalesce(first(m.model ORDER BY m.model = pattern DESC, m.parameters DESC, m.model)
                        FILTER (m.model LIKE pattern),
                    error('No model here is like ''' || pattern || ''': there are '
                          || coalesce(string_agg('''' || m.model || '''', ', ' ORDER BY m.model), 'none') || '.'))
    FROM models m
);

COMMENT ON MACRO original_model IS 'The model of that name, else of most parameters among those like a pattern.';
