-- one_retention(retention, touched): whether all layers that were touched have one retention; NULL where none was.
CREATE MACRO one_retention(retention, touched) AS (
    CASE WHEN bool_or(touched)
         THEN min(retention) FILTER (touched) = max(retention) FILTER (touched)
              AND count(retention) FILTER (touched) = count(*) FILTER (touched)
    END
);

COMMENT ON MACRO one_retention IS 'An aggregate: whether all touched layers of a module keep the same part of it.';
