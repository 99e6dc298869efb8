-- layer_map(a, b): which layer of b is which of a; one row for each layer of b that a has.
-- Where a component has as many layers in both, by number. Where it has not (layers were dropped or copied, and the
-- others perhaps numbered anew):
--   1. by content: a layer of b is the one of a with which it shares most weights to the last value, of several the
--      nearest by number; of several of b's that are the same one of a, one is the original
--   2. the others of those are copies (is_copy), if they share half of their weights with it: layers that were repeated
--   3. what is left between two originals (or before the first, or after the last) is one to one, in order, where there
--      are as many layers in both; where there are not, nothing is claimed: those layers count as removed and added
--   4. where no weight is shared at all, by number
-- What several layers of a model have alike that are no copies of each other tells nothing and is left out, unless it
-- is a matrix of different rows: norms and biases of a new model are alike, such matrices only where one was copied.
CREATE MACRO layer_map(a, b) AS TABLE
WITH layers AS (
    SELECT DISTINCT w.model, w.component, w.layer FROM weights w WHERE w.model IN (a, b) AND w.layer IS NOT NULL
),
numbers AS (
    SELECT l.component, list_sort(list(l.layer) FILTER (l.model = a)) AS of_a,
           list_sort(list(l.layer) FILTER (l.model = b)) AS of_b
    FROM layers l
    GROUP BY l.component
),
unlike AS (
    SELECT n.component FROM numbers n WHERE len(n.of_a) <> len(n.of_b)
),
known AS (
    SELECT w.model, w.component, w.layer, w.role, w.part, w.expert, c.content,
           w.rows IS NOT NULL AND c.is_varied AS is_telling,
           sum(hash(w.role, w.part, w.expert, coalesce(c.content, hash(w.weight)))) OVER layer AS whole,
           count(c.content) OVER layer AS of_layer
    FROM weights w
    JOIN unlike u ON u.component = w.component
    LEFT JOIN contents c ON c.model = w.model AND c.weight = w.weight
    WHERE w.model IN (a, b) AND w.layer IS NOT NULL
    WINDOW layer AS (PARTITION BY w.model, w.component, w.layer)
),
told AS (
    SELECT k.*
    FROM known k
    WHERE k.content IS NOT NULL
    WINDOW alike AS (PARTITION BY k.model, k.component, k.role, k.part, k.expert, k.content)
    QUALIFY k.is_telling OR min(k.whole) OVER alike = max(k.whole) OVER alike
),
shared AS (
    SELECT x.component, x.layer AS layer_a, y.layer AS layer_b, count(*) AS weights,
           count(*) >= any_value(y.of_layer) / 2 AS is_half
    FROM (SELECT DISTINCT * FROM told WHERE model = a) x JOIN (SELECT DISTINCT * FROM told WHERE model = b) y
      ON y.component = x.component AND y.role = x.role AND y.part = x.part AND y.content = x.content
     AND y.expert IS NOT DISTINCT FROM x.expert
    GROUP BY ALL
),
best AS (
    SELECT s.component, s.layer_a, s.layer_b
    FROM shared s
    QUALIFY row_number() OVER (
                PARTITION BY s.component, s.layer_b ORDER BY s.weights DESC, abs(s.layer_a - s.layer_b), s.layer_a) = 1
        AND row_number() OVER (
                PARTITION BY s.component, s.layer_a ORDER BY s.weights DESC, abs(s.layer_a - s.layer_b), s.layer_b) = 1
),
copies AS (
    SELECT s.component, s.layer_a, s.layer_b
    FROM shared s
    SEMI JOIN best t ON t.component = s.component AND t.layer_a = s.layer_a
    ANTI JOIN best t ON t.component = s.component AND t.layer_b = s.layer_b
    WHERE s.is_half
    QUALIFY row_number() OVER (
                PARTITION BY s.component, s.layer_b ORDER BY s.weights DESC, abs(s.layer_a - s.layer_b), s.layer_a) = 1
),
-- the layers that are left, between which two of `best` (by their numbers in a) each of them is
others AS (
    SELECT l.model, l.component, l.layer,
           arg_max(t.layer_a, t.own) FILTER (t.own < l.layer) AS lower,
           arg_min(t.layer_a, t.own) FILTER (t.own > l.layer) AS upper
    FROM layers l
    JOIN (SELECT a AS model, component, layer_a, layer_a AS own FROM best
          UNION ALL SELECT b, component, layer_a, layer_b FROM best) t
      ON t.model = l.model AND t.component = l.component
    ANTI JOIN copies c ON l.model = b AND c.component = l.component AND c.layer_b = l.layer
    GROUP BY l.model, l.component, l.layer
    HAVING bool_and(t.own <> l.layer)
),
gaps AS (
    SELECT o.*, row_number() OVER (gap ORDER BY o.layer) AS i, count(*) OVER gap AS n
    FROM others o
    WINDOW gap AS (PARTITION BY o.model, o.component, o.lower, o.upper)
),
between_best AS (
    SELECT x.component, x.layer AS layer_a, y.layer AS layer_b
    FROM gaps x JOIN gaps y
      ON y.component = x.component AND y.lower IS NOT DISTINCT FROM x.lower AND y.upper IS NOT DISTINCT FROM x.upper
     AND y.i = x.i AND y.n = x.n
    WHERE x.model = a AND y.model = b
),
by_number AS (
    SELECT x.component, x.layer AS layer_a, y.layer AS layer_b
    FROM layers x
    JOIN unlike u ON u.component = x.component
    JOIN layers y ON y.component = x.component AND y.layer = x.layer
    WHERE x.model = a AND y.model = b AND x.component NOT IN (SELECT component FROM best)
)
SELECT n.component, t.layer_a, t.layer_b, false AS is_copy
FROM numbers n, (SELECT unnest(n.of_a) AS layer_a, unnest(n.of_b) AS layer_b) t
WHERE len(n.of_a) = len(n.of_b)
UNION ALL
SELECT *, false FROM best
UNION ALL
SELECT *, true FROM copies
UNION ALL
SELECT *, false FROM between_best
UNION ALL
SELECT *, false FROM by_number;

COMMENT ON MACRO TABLE layer_map IS
    'Which layer of model b is which of model a, also where layers were dropped or repeated.';
