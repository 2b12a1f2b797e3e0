export { SQL } from '@event-driven-io/dumbo';
