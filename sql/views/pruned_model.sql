-- pruned_model(pattern): the model of that name; else, of those whose names match the LIKE pattern, the one of fewest
-- parameters (of several the last by name); an error where none matches. What a question compares if nobody says
-- which. The _ of a name would match other names too, so an equal one goes first.
CREATE MACRO pruned_model(pattern) AS (
    SELECT coalesce(last(m.model ORDER BY m.model = pattern, m.parameters DESC, m.model)
                        FILTER (m.model LIKE pattern),
                    error('No model here is like ''' || pattern || ''': there are '
                          || coalesce(string_agg('''' || m.model || '''', ', ' ORDER BY m.model), 'none') || '.'))
    FROM models m
);

COMMENT ON MACRO pruned_model IS 'The model of that name, else of fewest parameters among those like a pattern.';
