-- axes: the rows ('out') and the columns ('in') of every matrix of two models, and which channels of them are left.
SELECT component, layer, role, expert, weight_a, weight_b, axis, n_a, n_b, head_dim, method, channels,
       NOT is_open AS is_known
FROM surviving_axes($a, $b)
ORDER BY component, layer, expert, weight_b, axis;
