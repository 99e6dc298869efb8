-- channel_fingerprints: the hashes of the channels of one axis of a matrix, in their order.
SELECT fingerprint
FROM channels
WHERE model = $model AND matrix = $matrix AND axis = $axis
ORDER BY channel;
