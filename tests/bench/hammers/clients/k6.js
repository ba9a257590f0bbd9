// The load as people write it for k6: closed with CONNECTIONS users, or RATE iterations per second by as many users.
import http from 'k6/http';

const seconds = `${__ENV.SECONDS}s`;
const users = Number(__ENV.CONNECTIONS);
const constant = {
  executor: 'constant-arrival-rate', rate: Number(__ENV.RATE), timeUnit: '1s', duration: seconds, preAllocatedVUs: users,
};

export const options = __ENV.RATE ? { scenarios: { constant } } : { vus: users, duration: seconds };

export default function () {
  http.get(__ENV.URL);
}
