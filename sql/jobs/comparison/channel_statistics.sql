-- channel_statistics: what channels of one axis of a matrix are told apart by where values were altered, in their
-- order.
SELECT mean, std, min, max, mean_abs, kurtosis
FROM channels
WHERE model = $model AND matrix = $matrix AND axis = $axis
ORDER BY channel;
