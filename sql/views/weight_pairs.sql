-- weight_pairs(a, b): which weight of b is which of a; one row for each pair, and for each weight that only one has.
-- Fused tensors are paired part by part, with separate ones too. paired_by says what tells, in this order:
--   place     component, role and part are equal, and layer and expert those that layer_map and expert_map tell
--   name      what has no place, or another one in each (a family that does not fit): the same canonical name, with the
--             number that its layer has in a, where the values are equal as well
--   content   all values are equal, not all the same, and neither model has a second weight like it
--   name      of the rest what has one name
--   pattern   and what is called as others are that were paired by content, but for the numbers in the names
-- is_copy: whether another weight of b is that weight of a before this one, as of layers that are repeated: sums over
-- a's weights leave it out.
--   layer, expert       a's numbers; NULL where there are none, and where only b has the layer, or the expert
--   layer_b, expert_b   b's numbers likewise: of a weight that is gone, those of the layer and expert that are left
CREATE MACRO weight_pairs(a, b) AS TABLE
WITH layers AS MATERIALIZED (
    FROM layer_map(a, b)
),
experts AS MATERIALIZED (
    FROM expert_map(a, b)
),
all_of_a AS (
    SELECT w.*, l.layer_b, e.expert_b,
           CASE WHEN w.role <> 'other' THEN concat_ws(
               '/', w.component, coalesce(CAST(w.layer AS VARCHAR), '-'), w.role,
               coalesce(CAST(w.expert AS VARCHAR), '-'), w.part) END AS place
    FROM weights w
    LEFT JOIN layers l ON l.component = w.component AND l.layer_a = w.layer AND NOT l.is_copy
    LEFT JOIN experts e ON e.component = w.component AND e.layer_a = w.layer AND e.layer_b = l.layer_b
                       AND e.expert_a = w.expert
    WHERE w.model = existing_model(a)
),
all_of_b AS (
    SELECT w.*, l.layer_a, coalesce(l.is_copy, false) AS is_copy, e.expert_a,
           CASE WHEN w.role <> 'other' THEN concat_ws(
               '/', w.component, coalesce(CAST(l.layer_a AS VARCHAR), w.layer || ' of b', '-'), w.role,
               coalesce(CAST(e.expert_a AS VARCHAR), w.expert || ' of b', '-'), w.part) END AS place,
           CASE WHEN l.layer_a <> w.layer
                THEN regexp_replace(  -- the names of kohya's adapters have no dots
                    w.canonical_name,
                    CASE WHEN starts_with(w.canonical_name, 'lora_') THEN '(^|[._])' || w.layer || '([._])'
                         ELSE '(^|\.)' || w.layer || '(\.)' END, '\1' || l.layer_a || '\2')
                WHEN l.layer_a = w.layer OR w.layer IS NULL OR w.component NOT IN (SELECT component FROM layers)
                THEN w.canonical_name END AS name
    FROM weights w
    LEFT JOIN layers l ON l.component = w.component AND l.layer_b = w.layer
    LEFT JOIN experts e ON e.component = w.component AND e.layer_b = w.layer AND e.expert_b = w.expert
    WHERE w.model = existing_model(b)
),
-- what describes codes, and parts of adapters, may be several weights of one place, which then tells none of them
of_a AS MATERIALIZED (
    SELECT * REPLACE (CASE WHEN count(*) OVER (PARTITION BY place) = 1 THEN place END AS place) FROM all_of_a
),
of_b AS MATERIALIZED (
    SELECT * REPLACE (CASE WHEN count(*) OVER (PARTITION BY place, layer) = 1 THEN place END AS place) FROM all_of_b
),
placed AS (
    SELECT x.weight AS weight_a, y.weight AS weight_b FROM of_a x JOIN of_b y ON y.place = x.place
),
rest_a AS MATERIALIZED (
    SELECT x.*, c.content, c.is_varied, regexp_extract_all(x.canonical_name, '[0-9]+') AS numbers,
           regexp_replace(x.canonical_name, '[0-9]+', '{}', 'g') AS pattern
    FROM of_a x ANTI JOIN placed p ON p.weight_a = x.weight LEFT JOIN contents c ON c.model = a AND c.weight = x.weight
),
rest_b AS MATERIALIZED (
    SELECT y.*, c.content, c.is_varied, regexp_extract_all(y.name, '[0-9]+') AS numbers,
           regexp_replace(y.name, '[0-9]+', '{}', 'g') AS pattern
    FROM of_b y ANTI JOIN placed p ON p.weight_b = y.weight LEFT JOIN contents c ON c.model = b AND c.weight = y.weight
),
named AS MATERIALIZED (
    SELECT x.weight AS weight_a, y.weight AS weight_b, x.content = y.content IS TRUE AS is_equal
    FROM rest_a x JOIN rest_b y
      ON y.name = x.canonical_name
     AND (x.place IS NULL OR y.place IS NULL OR (x.component, x.role, x.part) <> (y.component, y.role, y.part))
    QUALIFY row_number() OVER (PARTITION BY x.weight, y.is_copy, y.layer ORDER BY y.weight) = 1
        AND row_number() OVER (PARTITION BY y.weight ORDER BY x.weight) = 1
),
alike AS MATERIALIZED (
    SELECT x.weight AS weight_a, y.weight AS weight_b
    FROM (FROM rest_a ANTI JOIN (FROM named WHERE is_equal) n ON n.weight_a = rest_a.weight
          QUALIFY count(*) OVER (PARTITION BY content) = 1) x
    JOIN (FROM rest_b ANTI JOIN (FROM named WHERE is_equal) n ON n.weight_b = rest_b.weight
          QUALIFY count(*) OVER (PARTITION BY content) = 1) y
      ON y.content = x.content AND y.is_varied AND y.parameters = x.parameters
     AND (y.rows = x.rows OR coalesce(y.rows, x.rows) IS NULL) AND (x.place IS NULL OR y.place IS NULL)
),
by_name AS MATERIALIZED (
    SELECT n.weight_a, n.weight_b
    FROM named n
    ANTI JOIN alike x ON x.weight_a = n.weight_a
    ANTI JOIN alike y ON y.weight_b = n.weight_b
),
told AS MATERIALIZED (
    FROM alike UNION ALL FROM by_name
),
patterns AS (
    SELECT x.pattern AS of_a, y.pattern AS of_b
    FROM alike k JOIN rest_a x ON x.weight = k.weight_a JOIN rest_b y ON y.weight = k.weight_b
    WHERE x.numbers = y.numbers
    GROUP BY x.pattern, y.pattern
    QUALIFY count(*) OVER (PARTITION BY x.pattern) = 1 AND count(*) OVER (PARTITION BY y.pattern) = 1
),
by_pattern AS (
    SELECT x.weight AS weight_a, y.weight AS weight_b
    FROM (FROM rest_a ANTI JOIN told t ON t.weight_a = rest_a.weight) x
    JOIN patterns p ON p.of_a = x.pattern
    JOIN (FROM rest_b ANTI JOIN told t ON t.weight_b = rest_b.weight) y ON y.pattern = p.of_b AND y.numbers = x.numbers
    WHERE x.place IS NULL OR y.place IS NULL
    QUALIFY count(*) OVER (PARTITION BY x.weight) = 1 AND count(*) OVER (PARTITION BY y.weight) = 1
),
paired AS (
    SELECT *, 'place' AS paired_by FROM placed
    UNION ALL
    SELECT *, 'content' FROM alike
    UNION ALL
    SELECT *, 'name' FROM by_name
    UNION ALL
    SELECT *, 'pattern' FROM by_pattern
)
SELECT existing_model(a) AS model_a, existing_model(b) AS model_b,
       coalesce(x.component, y.component) AS component,
       coalesce(x.layer, y.layer_a) AS layer, coalesce(y.layer, x.layer_b) AS layer_b,
       coalesce(x.role, y.role) AS role,
       coalesce(x.expert, y.expert_a) AS expert, coalesce(y.expert, x.expert_b) AS expert_b,
       coalesce(x.part, y.part) AS part, p.paired_by,
       y.is_copy IS TRUE AND p.weight_a IS NOT NULL
           AND row_number() OVER (PARTITION BY p.weight_a ORDER BY y.is_copy, y.layer, y.weight) > 1 AS is_copy,
       x.weight AS weight_a, y.weight AS weight_b, x.tensor AS tensor_a, y.tensor AS tensor_b,
       x.shape AS shape_a, y.shape AS shape_b, x.rows AS rows_a, y.rows AS rows_b, x.cols AS cols_a, y.cols AS cols_b,
       x.heads AS heads_a, y.heads AS heads_b, x.parameters AS parameters_a, y.parameters AS parameters_b,
       x.dtype AS dtype_a, y.dtype AS dtype_b, x.bytes AS bytes_a, y.bytes AS bytes_b
FROM of_a x
LEFT JOIN paired p ON p.weight_a = x.weight
FULL JOIN of_b y ON y.weight = p.weight_b;

COMMENT ON MACRO TABLE weight_pairs IS 'Which weight of model b is which of model a, and those that only one has.';
